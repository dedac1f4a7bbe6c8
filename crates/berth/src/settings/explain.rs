//! `berth config default`: every key with its explanation, commented out. The text comes from the schema that schemars
//! derives from the very types that the settings are read into: their doc comments, in their order, and their defaults.

use super::Settings;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::fmt::Write as _;

const HEAD: &str = "\
# The settings of berth: every key with its default, commented out.
# Drop-ins in the directory config.d beside this file are read after it, in the order of their names.
";

/// The whole text, which is TOML that sets nothing. What follows a `#` without a space is TOML, too; taken out of its
/// comment, it changes nothing. Tables stand uncommented, so that uncommenting one key is enough to set it.
pub(crate) fn explain() -> String {
    let generator = SchemaSettings::draft2020_12()
        .with(|s| s.inline_subschemas = true)
        .into_generator();
    let schema = generator.into_root_schema_for::<Settings>().to_value();
    let mut text = HEAD.to_owned();
    explain_table(&mut text, "", &schema);
    text
}

/// Keys first, then tables: a key that follows a table's head would belong to it.
fn explain_table(text: &mut String, path: &str, schema: &Value) {
    let properties = || schema["properties"].as_object().into_iter().flatten();
    for (name, property) in properties().filter(|(_, property)| !is_table(property)) {
        text.push('\n');
        comment(text, property);
        match value_in_toml(&property["default"]) {
            Some(value) => line(text, &format!("#{name} = {value}")),
            None => line(text, &format!("# {name} is not set.")),
        }
    }
    for (name, property) in properties().filter(|(_, property)| is_table(property)) {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        text.push('\n');
        comment(text, property);
        line(text, &format!("[{path}]"));
        explain_table(text, &path, property);
    }
}

fn is_table(property: &Value) -> bool {
    property["properties"].is_object()
}

fn comment(text: &mut String, property: &Value) {
    for words in property["description"].as_str().unwrap_or_default().lines() {
        line(text, &format!("# {words}"));
    }
}

/// `None` for a key without a default.
fn value_in_toml(value: &Value) -> Option<String> {
    toml::Value::try_from(value).ok().map(|value| value.to_string())
}

fn line(text: &mut String, words: &str) {
    // Writing to a String can't fail.
    let _ = writeln!(text, "{words}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        };
        let commented = explain();
        let uncommented: String = commented.lines().map(uncomment).collect();
        assert_ne!(commented, uncommented);
        for text in [commented, uncommented] {
            assert_eq!(
                toml::from_str::<Settings>(&text).unwrap(),
                Settings::default(),
                "{text}"
            );
        }
    }

    #[test]
    fn every_key_is_explained() {
        let text = explain();
        let lines: Vec<_> = text.lines().collect();
        for pair in lines.windows(2) {
            let is_key = !pair[1].is_empty() && !pair[1].starts_with("# ");
            assert!(
                !is_key || pair[0].starts_with("# "),
                "{:?} has no explanation",
                pair[1]
            );
        }
    }
}
