//! Evaluates a template that has been read.

use serde_json::Value;

use super::ast::{Branch, Command, Node, Operand, OperandKind, Pipeline};
use super::value::{LABELS, Val};
use super::{Options, Shape, functions};

/// What the template makes of a value.
pub(super) fn run(
    text: &str,
    nodes: &[Node],
    value: &Value,
    options: Options,
) -> anyhow::Result<String> {
    let root = Val::borrowed(value, options.shape);
    let mut run = Run {
        options,
        variables: vec![("$".to_owned(), root.clone())],
        out: String::new(),
    };
    match run.list(nodes, &root) {
        Ok(_) => Ok(run.out),
        Err(failure) => {
            let before = text.get(..failure.position).unwrap_or(text);
            let line = 1 + before.matches('\n').count();
            let column = failure.position - before.rfind('\n').map_or(0, |newline| newline + 1);
            Err(anyhow::anyhow!(
                "template parsing error: template: :{line}:{column}: executing \"\" at <{}>: {}",
                failure.node,
                failure.message
            ))
        }
    }
}

/// What failed, where, and why.
struct Failure {
    position: usize,
    node: String,
    message: String,
}

/// Failures are rare, and results are passed through every step.
type Result<T> = std::result::Result<T, Box<Failure>>;

fn at<T>(operand: &Operand, result: std::result::Result<T, String>) -> Result<T> {
    result.map_err(|message| {
        Box::new(Failure {
            position: operand.position,
            node: operand.to_string(),
            message,
        })
    })
}

/// How a list of nodes ended.
#[derive(PartialEq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Run<'v> {
    options: Options,
    variables: Vec<(String, Val<'v>)>,
    out: String,
}

impl<'v> Run<'v> {
    fn list(&mut self, nodes: &[Node], dot: &Val<'v>) -> Result<Flow> {
        for node in nodes {
            let scope = self.variables.len();
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&value.text());
                    }
                    // What an action sets is known to the rest of the list.
                    continue;
                }
                Node::If(branch) => {
                    if self.pipeline(&branch.pipeline, dot)?.truth() {
                        self.list(&branch.then, dot)?
                    } else {
                        self.list(&branch.otherwise, dot)?
                    }
                }
                Node::With(branch) => {
                    let value = self.pipeline(&branch.pipeline, dot)?;
                    if value.truth() {
                        self.list(&branch.then, &value)?
                    } else {
                        self.list(&branch.otherwise, dot)?
                    }
                }
                Node::Range(branch) => self.range(branch, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            self.variables.truncate(scope);
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn range(&mut self, branch: &Branch, dot: &Val<'v>) -> Result<Flow> {
        let pipeline = &branch.pipeline;
        let value = self.value_of(pipeline, dot)?;
        let Some(items) = items(&value) else {
            let message = format!("range can't iterate over {}", value.text());
            let position = pipeline
                .commands
                .first()
                .map_or(0, |command| command.position);
            return Err(Box::new(Failure {
                position,
                node: pipeline.to_string(),
                message,
            }));
        };
        if items.is_empty() {
            return self.list(&branch.otherwise, dot);
        }
        for (key, item) in items {
            let scope = self.variables.len();
            match pipeline.variables.as_slice() {
                [] => {}
                [only] => self.set(only, item.clone(), pipeline.assigns),
                [first, second, ..] => {
                    self.set(first, key, pipeline.assigns);
                    self.set(second, item.clone(), pipeline.assigns);
                }
            }
            let flow = self.list(&branch.then, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Val<'v>, assigns: bool) {
        if assigns
            && let Some((_, known)) = self
                .variables
                .iter_mut()
                .rev()
                .find(|(known, _)| known == name)
        {
            *known = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Val<'v>) -> Result<Val<'v>> {
        let value = self.value_of(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn value_of(&mut self, pipeline: &Pipeline, dot: &Val<'v>) -> Result<Val<'v>> {
        let mut value = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Val::NONE))
    }

    /// Evaluates a command with the value of the one before it, if there is one.
    fn command(
        &mut self,
        command: &Command,
        dot: &Val<'v>,
        last: Option<Val<'v>>,
    ) -> Result<Val<'v>> {
        let Some((head, arguments)) = command.words.split_first() else {
            return Ok(Val::NONE);
        };
        if let OperandKind::Function(name) = &head.kind {
            return self.function(command, name, arguments, dot, last);
        }
        if arguments.is_empty() && last.is_none() {
            if matches!(head.kind, OperandKind::Nil) {
                return at(head, Err("nil is not a command".into()));
            }
            return self.operand(head, dot);
        }
        // The one method that docker's lists have.
        if let OperandKind::Field(names) = &head.kind
            && let [name] = names.as_slice()
            && name == "Label"
            && let Some(Value::Object(row)) = dot.json()
            && let Some(labels) = row.get(LABELS)
        {
            let argument = match (arguments.first(), last) {
                (Some(argument), _) => self.operand(argument, dot)?,
                (None, value) => value.unwrap_or(Val::NONE),
            };
            let Some(Value::String(key)) = argument.json() else {
                return at(head, Err("wrong type for value; expected string".into()));
            };
            if self.options.titles {
                let title = key.rsplit('.').next().unwrap_or(key);
                return Ok(Val::owned(title.replace(['-', '_'], " ")));
            }
            return Ok(Val::owned(
                labels.get(key).cloned().unwrap_or_else(|| "".into()),
            ));
        }
        let message = match &head.kind {
            OperandKind::Field(names) | OperandKind::Chain(_, names) => format!(
                "{} is not a method but has arguments",
                names.last().map_or("", String::as_str)
            ),
            _ => format!("can't give argument to non-function {head}"),
        };
        at(head, Err(message))
    }

    fn function(
        &mut self,
        command: &Command,
        name: &str,
        arguments: &[Operand],
        dot: &Val<'v>,
        last: Option<Val<'v>>,
    ) -> Result<Val<'v>> {
        // `and` and `or` leave what does not matter unevaluated.
        let decided = match name {
            "and" => Some(false),
            "or" => Some(true),
            _ => None,
        };
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            if Some(value.truth()) == decided {
                return Ok(value);
            }
            values.push(value);
        }
        values.extend(last);
        functions::call(name, &values, self.options.titles).map_err(|message| {
            Box::new(Failure {
                position: command.position,
                node: command.to_string(),
                message,
            })
        })
    }

    fn operand(&mut self, operand: &Operand, dot: &Val<'v>) -> Result<Val<'v>> {
        match &operand.kind {
            OperandKind::Dot => Ok(dot.clone()),
            OperandKind::Nil => Ok(Val::owned(Value::Null)),
            OperandKind::Bool(value) => Ok(Val::owned(*value)),
            OperandKind::Number(number, _) => Ok(Val::owned(Value::Number(number.clone()))),
            OperandKind::Text(text, _) => Ok(Val::owned(text.as_str())),
            OperandKind::Function(name) => {
                at(operand, functions::call(name, &[], self.options.titles))
            }
            OperandKind::Field(names) => self.fields(operand, dot.clone(), names),
            OperandKind::Variable(name, names) => {
                let value = self
                    .variables
                    .iter()
                    .rev()
                    .find(|(known, _)| known == name)
                    .map_or(Val::NONE, |(_, value)| value.clone());
                self.fields(operand, value, names)
            }
            OperandKind::Chain(head, names) => {
                let value = self.operand(head, dot)?;
                self.fields(operand, value, names)
            }
            OperandKind::Parentheses(pipeline) => self.pipeline(pipeline, dot),
        }
    }

    fn fields(&self, operand: &Operand, start: Val<'v>, names: &[String]) -> Result<Val<'v>> {
        let mut value = start;
        let mut before: Option<&String> = None;
        for name in names {
            // docker falls back to the plain JSON here, where a field that is nil is not there at all.
            if let (Some(Value::Null), Shape::Struct(_), super::Missing::Entry, Some(before)) =
                (value.json(), value.shape, self.options.missing, before)
            {
                return at(operand, Err(format!("map has no entry for key {before:?}")));
            }
            value = at(operand, value.field(name, self.options.missing))?;
            before = Some(name);
        }
        Ok(value)
    }
}

/// What a range goes over: positions or keys, and items. None for what cannot be gone over.
fn items<'v>(value: &Val<'v>) -> Option<Vec<(Val<'v>, Val<'v>)>> {
    Some(match value.json() {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => (0..list.len())
            .filter_map(|at| {
                let item = value.part(value.shape.inner(""), |list| list.get(at))?;
                Some((Val::owned(at), item))
            })
            .collect(),
        Some(Value::Object(members)) => super::value::sorted(members)
            .into_iter()
            .filter_map(|(name, _)| {
                let item = value.part(value.shape.inner(name), |members| members.get(name))?;
                Some((Val::owned(name.as_str()), item))
            })
            .collect(),
        _ => return None,
    })
}
