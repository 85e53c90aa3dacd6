//! What is known of a value's fields: the order of a Go struct's, which of them may be absent, and what null means.

/// The kind of Go value that a JSON value stands for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Shape {
    /// Whatever the JSON says; null prints as `<nil>`.
    #[default]
    Any,
    /// A string: where it is not there, it is empty.
    Text,
    /// A struct, or a pointer to one: fields in order, each always there.
    Struct(&'static Struct),
    /// A map: keys may be missing, null is an empty one.
    Map(&'static Shape),
    /// A slice: null is an empty one.
    List(&'static Shape),
}

/// The fields of a Go struct.
#[derive(Debug)]
pub(crate) struct Struct {
    /// Name and kind of each field, in Go's order.
    pub(crate) fields: &'static [(&'static str, Shape)],
    /// A second name that Go has for a field, before the first.
    alias: Option<(&'static str, &'static str)>,
}

impl Struct {
    /// A struct with these fields.
    pub(crate) const fn new(fields: &'static [(&'static str, Shape)]) -> Self {
        Self {
            fields,
            alias: None,
        }
    }

    /// A struct one field of which goes by a second name: `("ID", "Id")`.
    pub(crate) const fn with_alias(
        fields: &'static [(&'static str, Shape)],
        alias: (&'static str, &'static str),
    ) -> Self {
        Self {
            fields,
            alias: Some(alias),
        }
    }

    /// The name of the field that this name means.
    pub(crate) fn resolve<'n>(&self, name: &'n str) -> &'n str {
        match self.alias {
            Some((alias, field)) if alias == name => field,
            _ => name,
        }
    }

    /// The kind of a field, if there is such a field.
    pub(crate) fn field(&self, name: &str) -> Option<Shape> {
        self.fields
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, shape)| *shape)
    }
}

impl Shape {
    /// The kind of what `name` or an index leads to.
    pub(crate) fn inner(self, name: &str) -> Self {
        match self {
            Self::Any | Self::Text => Self::Any,
            Self::Struct(fields) => fields.field(name).unwrap_or_default(),
            Self::Map(inner) | Self::List(inner) => *inner,
        }
    }
}
