//! Reads tokens into nodes.

use std::iter::Peekable;
use std::vec::IntoIter;

use super::ast::{Branch, Command, Node, Operand, OperandKind, Pipeline};
use super::functions;
use super::lexer::{self, Token, TokenKind};

/// How deep blocks and parentheses may stand in one another. Reading and evaluating recurse this deep.
const DEPTH: usize = 100;

/// Why a text is no template.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// Byte offset.
    pub(super) position: usize,
    pub(super) message: String,
}

impl SyntaxError {
    /// The sentence, with the number of the line.
    pub(super) fn in_text(&self, text: &str) -> anyhow::Error {
        let line = 1 + text
            .bytes()
            .take(self.position)
            .filter(|&byte| byte == b'\n')
            .count();
        anyhow::anyhow!(
            "template parsing error: template: :{line}: {}",
            self.message
        )
    }
}

type Result<T> = std::result::Result<T, SyntaxError>;

pub(super) fn parse(text: &str) -> Result<Vec<Node>> {
    let mut parser = Parser {
        tokens: lexer::tokens(text)?.into_iter().peekable(),
        end: text.len(),
        variables: vec!["$".into()],
        depth: 0,
        loops: 0,
    };
    let (nodes, stop) = parser.list(true)?;
    match stop {
        Stop::End(position) => Err(SyntaxError {
            position,
            message: "unexpected {{end}}".into(),
        }),
        Stop::Else(position) => Err(SyntaxError {
            position,
            message: "unexpected {{else}}".into(),
        }),
        Stop::OutOfText => Ok(nodes),
    }
}

/// What ended a list of nodes.
enum Stop {
    OutOfText,
    End(usize),
    /// `{{else` has been read, and no more.
    Else(usize),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    If,
    Range,
    With,
}

impl Kind {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "if" => Self::If,
            "range" => Self::Range,
            "with" => Self::With,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::If => "if",
            Self::Range => "range",
            Self::With => "with",
        }
    }
}

struct Parser {
    tokens: Peekable<IntoIter<Token>>,
    end: usize,
    variables: Vec<String>,
    depth: usize,
    loops: usize,
}

impl Parser {
    fn fail<T>(&mut self, message: impl Into<String>) -> Result<T> {
        let position = self.position();
        Err(SyntaxError {
            position,
            message: message.into(),
        })
    }

    fn position(&mut self) -> usize {
        self.tokens.peek().map_or(self.end, |token| token.position)
    }

    fn peek(&mut self) -> Option<&TokenKind> {
        self.tokens.peek().map(|token| &token.kind)
    }

    /// Takes the next token if it is this one.
    fn accept(&mut self, kind: &TokenKind) -> bool {
        self.tokens.next_if(|token| token.kind == *kind).is_some()
    }

    fn skip_space(&mut self) {
        while self.accept(&TokenKind::Space) {}
    }

    fn unexpected<T>(&mut self, context: &str) -> Result<T> {
        let what = self
            .peek()
            .map_or_else(|| "EOF".into(), TokenKind::describe);
        self.fail(format!("unexpected {what} in {context}"))
    }

    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= DEPTH {
            return self.fail(format!("nested deeper than {DEPTH}"));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    fn list(&mut self, outermost: bool) -> Result<(Vec<Node>, Stop)> {
        let mut nodes = Vec::new();
        loop {
            let position = self.position();
            match self.tokens.next().map(|token| token.kind) {
                Some(TokenKind::Text(text)) => nodes.push(Node::Text(text)),
                Some(_) => {
                    self.skip_space();
                    match self.action(position)? {
                        Action::Node(node) => nodes.push(node),
                        Action::Stop(stop) => return Ok((nodes, stop)),
                    }
                }
                None if outermost => return Ok((nodes, Stop::OutOfText)),
                None => return self.fail("unexpected EOF"),
            }
        }
    }

    /// Reads an action whose opening delimiter has been read.
    fn action(&mut self, position: usize) -> Result<Action> {
        let word = match self.peek() {
            Some(TokenKind::Word(word)) => word.clone(),
            _ => String::new(),
        };
        if let Some(kind) = Kind::of(&word) {
            self.tokens.next();
            return Ok(Action::Node(self.deeper(|parser| parser.branch(kind))?));
        }
        match word.as_str() {
            "end" => {
                self.tokens.next();
                self.close("end")?;
                Ok(Action::Stop(Stop::End(position)))
            }
            "else" => {
                self.tokens.next();
                Ok(Action::Stop(Stop::Else(position)))
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                self.tokens.next();
                self.close(&word)?;
                Ok(Action::Node(if word == "break" {
                    Node::Break
                } else {
                    Node::Continue
                }))
            }
            "define" | "template" | "block" => {
                self.fail(format!("{{{{{word}}}}} is not supported"))
            }
            _ => {
                let pipeline = self.pipeline("command", &TokenKind::Close)?;
                Ok(Action::Node(Node::Action(pipeline)))
            }
        }
    }

    fn close(&mut self, context: &str) -> Result<()> {
        self.skip_space();
        if self.accept(&TokenKind::Close) {
            Ok(())
        } else {
            self.unexpected(context)
        }
    }

    fn branch(&mut self, kind: Kind) -> Result<Node> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(kind.word(), &TokenKind::Close)?;
        if kind == Kind::Range {
            self.loops += 1;
        }
        let (then, stop) = self.list(false)?;
        if kind == Kind::Range {
            self.loops -= 1;
        }
        let mut otherwise = Vec::new();
        if matches!(stop, Stop::Else(_)) {
            self.skip_space();
            match self.peek() {
                // `else if` is an `if` of its own that ends with this one.
                Some(TokenKind::Word(word))
                    if kind != Kind::Range && word.as_str() == kind.word() =>
                {
                    self.tokens.next();
                    otherwise.push(self.deeper(|parser| parser.branch(kind))?);
                }
                _ => {
                    self.close("else")?;
                    let (nodes, stop) = self.list(false)?;
                    if !matches!(stop, Stop::End(_)) {
                        return self.fail("expected end; found {{else}}");
                    }
                    otherwise = nodes;
                }
            }
        }
        self.variables.truncate(scope);
        let branch = Branch {
            pipeline,
            then,
            otherwise,
        };
        Ok(match kind {
            Kind::If => Node::If(branch),
            Kind::Range => Node::Range(branch),
            Kind::With => Node::With(branch),
        })
    }

    /// Reads up to `end` and takes it too.
    fn pipeline(&mut self, context: &str, end: &TokenKind) -> Result<Pipeline> {
        self.skip_space();
        let mut pipeline = Pipeline {
            variables: Vec::new(),
            assigns: false,
            commands: Vec::new(),
        };
        if let Some(operand) = self.declaration(context, &mut pipeline)? {
            let command = self.command(Some(operand))?;
            pipeline.commands.push(command);
        }
        loop {
            self.skip_space();
            if self.accept(end) {
                break;
            }
            if !pipeline.commands.is_empty() {
                if !self.accept(&TokenKind::Pipe) {
                    return self.unexpected(context);
                }
                self.skip_space();
                if self.peek() == Some(end) {
                    return self.fail(format!("missing value for {context}"));
                }
            }
            let command = self.command(None)?;
            if !pipeline.commands.is_empty()
                && let Some(word) = command.words.first()
                && !may_take_value(word)
            {
                return self.fail(format!(
                    "non executable command in pipeline stage {}",
                    pipeline.commands.len() + 1
                ));
            }
            pipeline.commands.push(command);
        }
        if pipeline.commands.is_empty() {
            return self.fail(format!("missing value for {context}"));
        }
        Ok(pipeline)
    }

    /// Reads `$x :=`, `$x =` or, in a range, `$i, $e :=`; what turned out to be no declaration is given back as an operand.
    fn declaration(&mut self, context: &str, pipeline: &mut Pipeline) -> Result<Option<Operand>> {
        let Some(TokenKind::Variable(name)) = self.peek().cloned() else {
            return Ok(None);
        };
        let position = self.position();
        self.tokens.next();
        let spaced = self.peek() == Some(&TokenKind::Space);
        let mut names = vec![name];
        self.skip_space();
        if context == "range" && self.accept(&TokenKind::Comma) {
            self.skip_space();
            match self.peek().cloned() {
                Some(TokenKind::Variable(second)) => {
                    self.tokens.next();
                    names.push(second);
                    self.skip_space();
                }
                _ => return self.fail("range can only initialize variables"),
            }
            if !matches!(self.peek(), Some(TokenKind::Declare | TokenKind::Assign)) {
                return self.unexpected(context);
            }
        }
        match self.peek() {
            Some(TokenKind::Declare) => {
                self.tokens.next();
                self.variables.extend(names.iter().cloned());
                pipeline.variables = names;
            }
            Some(TokenKind::Assign) => {
                self.tokens.next();
                for name in &names {
                    self.check_variable(name, position)?;
                }
                pipeline.variables = names;
                pipeline.assigns = true;
            }
            Some(TokenKind::Comma) => {
                return self.fail(format!("too many declarations in {context}"));
            }
            _ => {
                let name = names.pop().unwrap_or_default();
                self.check_variable(&name, position)?;
                let operand = Operand {
                    position,
                    kind: OperandKind::Variable(name, Vec::new()),
                };
                return Ok(Some(if spaced {
                    operand
                } else {
                    self.with_fields(operand)?
                }));
            }
        }
        self.skip_space();
        Ok(None)
    }

    fn check_variable(&self, name: &str, position: usize) -> Result<()> {
        if self.variables.iter().any(|known| known == name) {
            return Ok(());
        }
        Err(SyntaxError {
            position,
            message: format!("undefined variable {name:?}"),
        })
    }

    fn command(&mut self, first: Option<Operand>) -> Result<Command> {
        self.skip_space();
        let position = match &first {
            Some(operand) => operand.position,
            None => self.position(),
        };
        let mut words: Vec<Operand> = first.into_iter().collect();
        loop {
            self.skip_space();
            let Some(operand) = self.operand()? else {
                break;
            };
            words.push(operand);
            match self.peek() {
                Some(TokenKind::Space) => {}
                Some(TokenKind::Pipe | TokenKind::Close | TokenKind::RightParenthesis) => break,
                _ => return self.unexpected("operand"),
            }
        }
        if words.is_empty() {
            return match self.peek() {
                Some(TokenKind::Pipe) => self.fail("missing value for command"),
                _ => self.unexpected("command"),
            };
        }
        Ok(Command { position, words })
    }

    /// Reads one operand, if the next token begins one.
    fn operand(&mut self) -> Result<Option<Operand>> {
        let position = self.position();
        let Some(token) = self.peek().cloned() else {
            return self.fail("unexpected EOF");
        };
        let kind = match token {
            TokenKind::Dot => OperandKind::Dot,
            TokenKind::Field(name) => OperandKind::Field(vec![name]),
            TokenKind::Variable(name) => {
                self.check_variable(&name, position)?;
                OperandKind::Variable(name, Vec::new())
            }
            TokenKind::Number(number, written) => OperandKind::Number(number, written),
            TokenKind::Quoted(text, written) => OperandKind::Text(text, written),
            TokenKind::Word(word) => match word.as_str() {
                "true" => OperandKind::Bool(true),
                "false" => OperandKind::Bool(false),
                "nil" => OperandKind::Nil,
                _ if functions::is_known(&word) => OperandKind::Function(word),
                "if" | "else" | "end" | "range" | "with" | "break" | "continue" | "define"
                | "template" | "block" => return self.unexpected("command"),
                _ => return self.fail(format!("function {word:?} not defined")),
            },
            TokenKind::LeftParenthesis => {
                self.tokens.next();
                let pipeline = self.deeper(|parser| {
                    parser.pipeline("parenthesized pipeline", &TokenKind::RightParenthesis)
                })?;
                let operand = Operand {
                    position,
                    kind: OperandKind::Parentheses(pipeline),
                };
                return self.with_fields(operand).map(Some);
            }
            _ => return Ok(None),
        };
        self.tokens.next();
        self.with_fields(Operand { position, kind }).map(Some)
    }

    /// Adds the fields that follow an operand without a space. Go places a chain where its second field begins.
    fn with_fields(&mut self, operand: Operand) -> Result<Operand> {
        let position = self.position();
        let mut names = Vec::new();
        while let Some(TokenKind::Field(name)) = self.peek().cloned() {
            self.tokens.next();
            names.push(name);
        }
        if names.is_empty() {
            return Ok(operand);
        }
        let kind = match operand.kind {
            OperandKind::Field(mut first) => {
                first.extend(names);
                OperandKind::Field(first)
            }
            OperandKind::Variable(name, mut first) => {
                first.extend(names);
                OperandKind::Variable(name, first)
            }
            OperandKind::Bool(_)
            | OperandKind::Number(..)
            | OperandKind::Text(..)
            | OperandKind::Nil
            | OperandKind::Dot => {
                return self.fail(format!("unexpected . after term {:?}", operand.to_string()));
            }
            _ => OperandKind::Chain(Box::new(operand), names),
        };
        Ok(Operand { position, kind })
    }
}

/// What an action amounts to.
enum Action {
    Node(Node),
    Stop(Stop),
}

/// Whether something can take the value of the command before it.
fn may_take_value(operand: &Operand) -> bool {
    !matches!(
        operand.kind,
        OperandKind::Bool(_)
            | OperandKind::Dot
            | OperandKind::Nil
            | OperandKind::Number(..)
            | OperandKind::Text(..)
    )
}
