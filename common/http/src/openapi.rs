//! What the OpenAPI 3.1 documents of our APIs have in common: how an operation is told of, and what stands around all
//! of them.

use serde_json::{Map, Value, json};

/// What a document says of a route.
#[derive(Clone, Debug)]
pub struct Operation<'a> {
    /// As HTTP writes it.
    pub method: &'a str,
    /// With its parameters in braces.
    pub path: &'a str,
    /// One sentence.
    pub summary: &'a str,
    /// The group that it belongs to.
    pub tag: &'a str,
    /// What opens it: any of these.
    pub security: Value,
    /// Query parameters: name, type, meaning.
    pub query: &'a [(&'a str, &'a str, &'a str)],
    /// Bodies that it takes, by media type: one of them.
    pub takes: Map<String, Value>,
    /// Status of success.
    pub status: u16,
    /// The body of success, by media type.
    pub gives: Map<String, Value>,
}

/// A document of operations, in groups, with the schemas that [`reference()`] leads to, and what opens operations.
#[must_use]
pub fn document(
    title: &str,
    description: &str,
    tags: &[&str],
    paths: Map<String, Value>,
    schemas: Map<String, Value>,
    security: Value,
) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": description,
        },
        "tags": tags.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": security,
            "responses": {
                "Problem": {
                    "description": "What is wrong, and what to do (RFC 9457).",
                    "content": { "application/problem+json": { "schema": reference("Problem") } },
                },
            },
        },
    })
}

impl Operation<'_> {
    /// Puts it, with what `more` there is to say of it, among a document's paths.
    pub fn put(self, paths: &mut Map<String, Value>, more: Map<String, Value>) {
        let mut success = Map::from_iter([("description".to_owned(), "Done.".into())]);
        if !self.gives.is_empty() {
            success.insert("content".into(), self.gives.into());
        }
        let responses = json!({
            self.status.to_string(): success,
            "default": { "$ref": "#/components/responses/Problem" },
        });
        let mut operation = more;
        operation.insert("summary".into(), self.summary.into());
        operation.insert("operationId".into(), id(self.method, self.path).into());
        operation.insert("tags".into(), json!([self.tag]));
        operation.insert("security".into(), self.security);
        let parameters = parameters(self.path, self.query);
        if !parameters.is_empty() {
            operation.insert("parameters".into(), parameters.into());
        }
        if !self.takes.is_empty() {
            operation.insert("requestBody".into(), json!({ "content": self.takes }));
        }
        operation.insert("responses".into(), responses);
        let methods = paths.entry(self.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            methods.insert(self.method.to_lowercase(), operation.into());
        }
    }
}

/// Leads to a schema of the document.
#[must_use]
pub fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// An object that was written down as JSON.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("invariant: what is part of the binary is JSON, tests read it")
}

fn parameter(part: &str) -> Option<&str> {
    part.strip_prefix('{')?.strip_suffix('}')
}

fn parameters(path: &str, query: &[(&str, &str, &str)]) -> Vec<Value> {
    let in_path = path
        .split('/')
        .filter_map(parameter)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = query.iter().map(|(name, kind, text)| {
        json!({ "name": name, "in": "query", "description": text, "schema": { "type": kind } })
    });
    in_path.chain(in_query).collect()
}

/// For example `postPeersPause`; what ends in a parameter is `…One`.
fn id(method: &str, path: &str) -> String {
    let parts = path.split('/').filter(|part| parameter(part).is_none());
    let words = parts.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric()));
    let words = words.filter(|word| !matches!(*word, "" | "admin" | "v1"));
    let capital = |word: &str| {
        word.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(word.chars().skip(1)).collect::<String>()
    };
    let one = if path.ends_with('}') { "One" } else { "" };
    format!("{}{}{one}", method.to_lowercase(), words.map(capital).collect::<String>())
}
