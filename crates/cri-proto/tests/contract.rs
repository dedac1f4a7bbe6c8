//! Checks the compiled contract against `proto/facts.tsv`, both ways: a fact that the contract lacks and a part of the
//! contract that no fact knows are both failures.
//!
//! The facts were printed from the descriptor inside the API's own Go module (k8s.io/cri-api v0.37.0), not from our
//! `.proto` file, so a wrong name, number, type or label there can't hide. One line each, tab-separated:
//!
//! ```text
//! message  MESSAGE
//! field    MESSAGE  FIELD  NUMBER  TYPE  singular|repeated|map  -|deprecated
//! enum     ENUM     VALUE  NUMBER
//! method   SERVICE  METHOD  REQUEST  unary|stream  REPLY  unary|stream
//! ```

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

const FACTS: &str = include_str!("../../../proto/facts.tsv");

#[test]
fn contract_is_exactly_the_known_facts() {
    let facts: BTreeSet<String> = FACTS.lines().map(str::to_owned).collect();
    assert_eq!(facts.len(), FACTS.lines().count(), "a fact is listed twice");
    let contract = contract();

    let missing: Vec<_> = facts.difference(&contract).collect();
    let unknown: Vec<_> = contract.difference(&facts).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing: {missing:#?}\nunknown: {unknown:#?}");
}

/// Every part of the compiled contract, as a line in the form of the facts.
fn contract() -> BTreeSet<String> {
    let set = FileDescriptorSet::decode(berth_cri_proto::DESCRIPTORS).unwrap();
    let mut lines = BTreeSet::new();
    for file in &set.file {
        assert_eq!(file.package(), "runtime.v1");
        file.message_type.iter().for_each(|message| add_message(&mut lines, "", message));
        file.enum_type.iter().for_each(|values| add_enum(&mut lines, "", values));
        file.service.iter().for_each(|service| add_service(&mut lines, service));
    }
    lines
}

fn add_message(lines: &mut BTreeSet<String>, prefix: &str, message: &DescriptorProto) {
    let name = format!("{prefix}{}", message.name());
    lines.insert(format!("message\t{name}"));
    for field in &message.field {
        let (type_name, label) = shape(message, field);
        let options = field.options.clone().unwrap_or_default();
        let flag = if options.deprecated() { "deprecated" } else { "-" };
        let (field_name, number) = (field.name(), field.number());
        lines.insert(format!("field\t{name}\t{field_name}\t{number}\t{type_name}\t{label}\t{flag}"));
    }
    let nested = format!("{name}.");
    message.enum_type.iter().for_each(|values| add_enum(lines, &nested, values));
    message.nested_type.iter().filter(|m| !is_map_entry(m)).for_each(|m| add_message(lines, &nested, m));
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}

/// A field's type and label; a map is told by the entry message that its type points at.
fn shape(message: &DescriptorProto, field: &FieldDescriptorProto) -> (String, &'static str) {
    assert!(field.oneof_index.is_none(), "the facts know no oneof: {}", field.name());
    let last = field.type_name().rsplit('.').next();
    let entry = message.nested_type.iter().find(|inner| is_map_entry(inner) && last == Some(inner.name()));
    match (entry, field.label()) {
        (Some(entry), _) => (format!("{},{}", type_name(&entry.field[0]), type_name(&entry.field[1])), "map"),
        (None, Label::Repeated) => (type_name(field), "repeated"),
        (None, Label::Optional | Label::Required) => (type_name(field), "singular"),
    }
}

fn type_name(field: &FieldDescriptorProto) -> String {
    if let Some(named) = field.type_name().strip_prefix(".runtime.v1.") {
        return named.to_owned();
    }
    let name = match field.r#type() {
        Type::Bool => "bool",
        Type::Bytes => "bytes",
        Type::Double => "double",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::String => "string",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        _ => "a type that the API does not use",
    };
    name.to_owned()
}

fn add_enum(lines: &mut BTreeSet<String>, prefix: &str, values: &EnumDescriptorProto) {
    for value in &values.value {
        lines.insert(format!("enum\t{prefix}{}\t{}\t{}", values.name(), value.name(), value.number()));
    }
}

fn add_service(lines: &mut BTreeSet<String>, service: &ServiceDescriptorProto) {
    let local = |name: &str| name.trim_start_matches(".runtime.v1.").to_owned();
    let streaming = |yes: bool| if yes { "stream" } else { "unary" };
    for method in &service.method {
        lines.insert(format!(
            "method\t{}\t{}\t{}\t{}\t{}\t{}",
            service.name(),
            method.name(),
            local(method.input_type()),
            streaming(method.client_streaming()),
            local(method.output_type()),
            streaming(method.server_streaming()),
        ));
    }
}
