//! Go's text/template over JSON, as far as docker's users use it in `--format`.
//!
//! Text, fields, variables, pipelines, `if`, `range`, `with`, trim markers, comments, parentheses, and the functions of
//! text/template and of docker. Values print as Go prints them, and errors read as Go's, with line and column.
//! Named templates (`define`, `template`, `block`) are refused.

mod ast;
mod compare;
mod functions;
mod interpreter;
mod lexer;
mod parser;
mod printf;
mod shape;
mod value;

use serde_json::Value;

pub(crate) use printf::quote;
pub(crate) use shape::{Shape, Struct};
pub(crate) use value::LABELS;

/// What evaluating a key gives which an object does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Missing {
    /// `<no value>`, as for a map
    #[default]
    Nothing,
    /// An error that names the key, as `docker inspect` gives it
    Entry,
    /// An error that names the key and this Go type, as docker's lists give it
    Field(&'static str),
}

/// How a template is evaluated.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Options {
    /// What a key that is not there gives, where the shape does not say that it may be absent.
    pub(crate) missing: Missing,
    /// What is known of the value's fields.
    pub(crate) shape: Shape,
    /// For a table's titles: functions that change case or cut leave them alone.
    pub(crate) titles: bool,
}

/// A template that has been read.
#[derive(Debug)]
pub(crate) struct Template {
    text: String,
    nodes: Vec<ast::Node>,
}

impl Template {
    /// Reads a template.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let nodes = parser::parse(text).map_err(|error| error.in_text(text))?;
        Ok(Self {
            text: text.to_owned(),
            nodes,
        })
    }

    /// What the template makes of a value.
    pub(crate) fn render(&self, value: &Value, options: Options) -> anyhow::Result<String> {
        interpreter::run(&self.text, &self.nodes, value, options)
    }
}

/// What a template makes of a value whose keys may be missing.
///
/// Errors are docker's: `template parsing error: template: :1: unclosed action`.
#[cfg(test)]
pub(crate) fn render(template: &str, value: &Value) -> anyhow::Result<String> {
    Template::parse(template)?.render(value, Options::default())
}

#[cfg(test)]
mod tests;
