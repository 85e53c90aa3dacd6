//! Makes equal what differs from run to run: identifiers, times, ages, directories.

use std::path::Path;
use std::sync::LazyLock;

use regex_lite::Regex;

static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"\b[0-9a-f]{64}\b", "<id>"),
        (r"\b[0-9a-f]{12}\b", "<short>"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
        (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} \w+", "<date>"),
        // What pads a column after an age goes with it.
        (
            r"(Less than a second|\d+ (second|minute)s?|About a minute)( ago)? *",
            "<age> ",
        ),
        // And what pads the header above it.
        (r"\b(CREATED|STATUS) +", "$1 "),
    ]
    .into_iter()
    .filter_map(|(pattern, word)| Some((Regex::new(pattern).ok()?, word)))
    .collect()
});

/// The text without what differs from run to run.
pub(crate) fn normal(text: &str, scratch: &Path) -> String {
    let mut text = text
        .replace(&*scratch.to_string_lossy(), "$DIR")
        .replace('\r', "");
    for (rule, word) in RULES.iter() {
        text = rule.replace_all(&text, *word).into_owned();
    }
    text
}
