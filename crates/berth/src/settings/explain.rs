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
    let generator = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true).into_generator();
    let schema = generator.into_root_schema_for::<Settings>().to_value();
    let mut text = HEAD.to_owned();
    explain_table(&mut text, "", &schema);
    text
}

/// Keys first, then tables: a key that follows a table's head would belong to it.
fn explain_table(text: &mut String, path: &str, schema: &Value) {
    let inside = |name: &str| {
        if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
    };
    let properties = || schema["properties"].as_object().into_iter().flatten();
    for (name, property) in properties().filter(|(_, property)| !is_table(property)) {
        text.push('\n');
        comment(text, "", property);
        if is_table(&property["additionalProperties"]) {
            explain_named_tables(text, &inside(name), &property["additionalProperties"]);
        } else {
            let set = assignment(name, property).map(|assignment| format!("#{assignment}"));
            line(text, &set.unwrap_or_else(|| format!("# {name} is not set.")));
        }
    }
    for (name, property) in properties().filter(|(_, property)| is_table(property)) {
        text.push('\n');
        comment(text, "", property);
        line(text, &format!("[{}]", inside(name)));
        explain_table(text, &inside(name), property);
    }
}

/// Tables whose names the operator chooses. There are none by default, so all of it is prose.
fn explain_named_tables(text: &mut String, path: &str, schema: &Value) {
    line(
        text,
        &format!("# None by default. Each is a table [{path}.\"NAME\"] with these keys and defaults:"),
    );
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        line(
            text,
            &format!("#   {}", assignment(name, property).unwrap_or_else(|| format!("{name} (not set)"))),
        );
        comment(text, "     ", property);
    }
}

fn is_table(property: &Value) -> bool {
    property["properties"].is_object()
}

/// `name = value`; `None` for a key without a default.
fn assignment(name: &str, property: &Value) -> Option<String> {
    toml::Value::try_from(&property["default"]).ok().map(|value| format!("{name} = {value}"))
}

fn comment(text: &mut String, indent: &str, property: &Value) {
    for words in property["description"].as_str().unwrap_or_default().lines() {
        line(text, &format!("# {indent}{words}"));
    }
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
            assert_eq!(toml::from_str::<Settings>(&text).unwrap(), Settings::default(), "{text}");
        }
    }

    #[test]
    fn the_sample_file_is_what_the_command_prints() {
        let sample = include_str!("../../../../manifests/config.toml");
        assert!(sample == explain(), "run: berth config default > manifests/config.toml");
    }

    #[test]
    fn every_key_is_explained() {
        let text = explain();
        let lines: Vec<_> = text.lines().collect();
        for pair in lines.windows(2) {
            let is_key = !pair[1].is_empty() && !pair[1].starts_with("# ");
            assert!(!is_key || pair[0].starts_with("# "), "{:?} has no explanation", pair[1]);
        }
    }
}
