//! The OpenAPI 3.1 document of both HTTP APIs. The admin API's part is made from [`super::routes::ROUTES`], so it
//! cannot miss a route; the local API's part and all schemas are written down in `openapi/`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::fail::role;
use super::routes::{Access, Content, ROUTES, Route};

/// Schemas of the admin API's bodies.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

/// Paths of the local API, with their schemas.
const LOCAL: &str = include_str!("openapi/local.json");

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// The document.
#[must_use]
pub fn document() -> Value {
    DOCUMENT.clone()
}

/// Every operation in the document, as `METHOD /path`.
#[must_use]
pub fn operations() -> BTreeSet<String> {
    let paths = DOCUMENT.get("paths").and_then(Value::as_object).into_iter().flatten();
    paths
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().into_iter().flatten();
            methods.map(move |(method, _)| format!("{} {path}", method.to_uppercase()))
        })
        .collect()
}

fn build() -> Value {
    let local: Value = serde_json::from_str(LOCAL).expect("invariant: local.json is JSON, tests read it");
    let schemas: Value =
        serde_json::from_str(SCHEMAS).expect("invariant: schemas.json is JSON, tests read it");
    let mut paths = object(local.get("paths"));
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(route.method.as_str().to_lowercase(), operation(route));
        }
    }
    let mut all_schemas = object(local.get("schemas"));
    all_schemas.extend(object(Some(&schemas)));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Trunkline gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Paths below /v1 are the local API, for a deployment's own messaging servers, opened \
                by a network's token. All others are the admin API, opened by an admin token or a session. The two listen \
                on different ports. Times are milliseconds since the Unix epoch.",
        },
        "tags": [{ "name": "local" }, { "name": "admin" }, { "name": "health" }],
        "paths": paths,
        "components": {
            "schemas": all_schemas,
            "securitySchemes": {
                "network": { "type": "http", "scheme": "bearer", "description": "A network's token." },
                "admin": { "type": "http", "scheme": "bearer", "description": "An admin token." },
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "trunkline_*",
                    "description": "A console session. The name ends in the first 8 hexadecimal digits of the \
                        SHA-256 of the federation domain. Whatever is no GET also takes the header \
                        X-Trunkline-Csrf with the session's `csrf`.",
                },
            },
            "responses": {
                "Problem": {
                    "description": "What is wrong, and what to do (RFC 9457).",
                    "content": { "application/problem+json": { "schema": reference("Problem") } },
                },
            },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = Map::new();
    operation.insert("summary".into(), route.summary.into());
    operation.insert("operationId".into(), operation_id(route).into());
    match route.access {
        Access::Open => {
            let tag = if route.path.starts_with("/admin/") { "admin" } else { "health" };
            operation.insert("tags".into(), json!([tag]));
            operation.insert("security".into(), json!([]));
        }
        Access::Own => {
            operation.insert("tags".into(), json!(["admin"]));
            operation.insert("security".into(), json!([{ "admin": [] }, { "session": [] }]));
            let text = "Takes a token or a session, also while a new password or a second factor is due.";
            operation.insert("description".into(), text.into());
        }
        Access::Role(needed) => {
            operation.insert("tags".into(), json!(["admin"]));
            operation.insert("security".into(), json!([{ "admin": [] }, { "session": [] }]));
            operation.insert("x-role".into(), role(needed).into());
            let text = format!("Takes a token or a session of role `{}` or above.", role(needed));
            operation.insert("description".into(), text.into());
        }
    }
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    if let Some(schema) = route.request {
        let content = json!({ "application/json": { "schema": reference(schema) } });
        operation.insert("requestBody".into(), json!({ "content": content }));
    }
    let mut success = json!({ "description": "Done." });
    let content = match route.content {
        Content::Json(schema) => Some(json!({ "application/json": { "schema": reference(schema) } })),
        Content::Other(media_type) => Some(json!({ media_type: {} })),
        Content::Nothing => None,
    };
    if let (Some(content), Value::Object(success)) = (content, &mut success) {
        success.insert("content".into(), content);
    }
    let responses = json!({
        route.status.to_string(): success,
        "default": { "$ref": "#/components/responses/Problem" },
    });
    operation.insert("responses".into(), responses);
    Value::Object(operation)
}

fn parameters(route: &Route) -> Vec<Value> {
    let named = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = named
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = route.query.iter().map(|(name, kind, text)| {
        json!({ "name": name, "in": "query", "description": text, "schema": { "type": kind } })
    });
    in_path.chain(in_query).collect()
}

/// For example `postPeersPause`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words
        .filter(|word| !matches!(*word, "" | "admin" | "v1" | "domain" | "id" | "label" | "name" | "call"));
    let capital = |word: &str| {
        word.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(word.chars().skip(1)).collect::<String>()
    };
    let one = if route.path.ends_with('}') { "One" } else { "" };
    format!("{}{}{one}", route.method.as_str().to_lowercase(), words.map(capital).collect::<String>())
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn object(value: Option<&Value>) -> Map<String, Value> {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` in a value.
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    found.insert(target.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        let document = document();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for target in &found {
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let document = document();
        let mut seen = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let id =
                    operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has none"));
                assert!(seen.insert(id.to_owned()), "{id} twice");
            }
        }
    }

    #[test]
    fn every_route_of_the_admin_api_is_in_the_document() {
        let operations = operations();
        for route in ROUTES {
            let operation = format!("{} {}", route.method.as_str(), route.path);
            assert!(operations.contains(&operation), "{operation}");
        }
    }
}
