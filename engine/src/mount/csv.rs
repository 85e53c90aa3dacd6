//! One record of comma-separated values (RFC 4180), as `--mount` is written, with the words of Go's reader where it is wrong.

/// Splits a record into its fields. Quotes may hold commas, and a doubled quote in them is one.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Err("value is empty".to_owned());
    }
    if text.contains(['\n', '\r']) {
        return Err("it must be a single line".to_owned());
    }
    let wrong = |rest: &str, what: &str| {
        // Bytes from the beginning, the first being 1.
        let column = text.len() - rest.len() + 1;
        format!("parse error on line 1, column {column}: {what}")
    };
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let mut field = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            rest = quoted;
            loop {
                let Some((part, after)) = rest.split_once('"') else {
                    return Err(wrong("", "extraneous or missing \" in quoted-field"));
                };
                field.push_str(part);
                rest = after;
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        rest = more;
                    }
                    None => break,
                }
            }
            if !rest.is_empty() && !rest.starts_with(',') {
                return Err(wrong(rest, "extraneous or missing \" in quoted-field"));
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            let (plain, after) = rest.split_at(end);
            if let Some(quote) = plain.find('"') {
                return Err(wrong(&rest[quote..], "bare \" in non-quoted-field"));
            }
            field.push_str(plain);
            rest = after;
        }
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_and_quotes() {
        assert_eq!(
            fields("a=1,\"b=2,3\",\"c=\"\"x\"\"\",").unwrap(),
            ["a=1", "b=2,3", "c=\"x\"", ""]
        );
        assert_eq!(fields(" a, b ").unwrap(), [" a", " b "]);
        assert_eq!(fields("ä=ö,\"ü\"").unwrap(), ["ä=ö", "ü"]);
    }

    #[test]
    fn wrong_quotes_are_told_with_their_place() {
        for (text, column) in [("a\"b", 2), ("\"a\"b", 4), ("x,\"a", 5), ("ä\"", 3)] {
            let told = fields(text).unwrap_err();
            assert!(
                told.contains(&format!("column {column}:")),
                "{text}: {told}"
            );
        }
        assert!(fields("").is_err());
        assert!(fields("a\nb").is_err());
    }
}
