//! The OpenAPI 3.1 document, made from [`super::routes::ROUTES`], so that it cannot miss a route; schemas are written
//! down in `openapi/schemas.json`.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::routes::{Access, Body, JSON, ROUTES, Route};

/// Schemas of bodies and of the events connection's messages.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// The document.
#[must_use]
pub fn document() -> Value {
    DOCUMENT.clone()
}

fn build() -> Value {
    let schemas: Value =
        serde_json::from_str(SCHEMAS).expect("invariant: schemas.json is JSON, tests read it");
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(route.method.as_str().to_lowercase(), operation(route));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Trunkline relay",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "For calling services (admin token) and for the people on calls (join token, then the \
                session's URL). docs/API.md explains the events connection.",
        },
        "tags": [{ "name": "calls" }, { "name": "participants" }, { "name": "operation" }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "admin": { "type": "http", "scheme": "bearer", "description": "The node's admin token." },
                "join": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "A join token: `sub`, `call`, `role`, `exp`.",
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
    let (security, tag) = match route.access {
        Access::Open => (json!([]), "operation"),
        Access::Metrics => (json!([{}, { "admin": [] }]), "operation"),
        Access::Admin => (json!([{ "admin": [] }]), "calls"),
        Access::Join => (json!([{ "join": [] }]), "participants"),
        Access::Session => (json!([{}, { "join": [] }]), "participants"),
    };
    let mut operation = Map::new();
    operation.insert("summary".into(), route.summary.into());
    operation.insert("operationId".into(), operation_id(route).into());
    operation.insert("tags".into(), json!([tag]));
    operation.insert("security".into(), security);
    let parameters = parameters(route);
    if !parameters.is_empty() {
        operation.insert("parameters".into(), parameters.into());
    }
    if !route.takes.is_empty() {
        let content: Map<_, _> = route.takes.iter().map(content).collect();
        operation.insert("requestBody".into(), json!({ "content": content }));
    }
    let mut success = json!({ "description": "Done." });
    if let (Some(body), Value::Object(success)) = (&route.gives, &mut success) {
        success.insert("content".into(), Value::Object([content(body)].into_iter().collect()));
    }
    let responses = json!({
        route.status.to_string(): success,
        "default": { "$ref": "#/components/responses/Problem" },
    });
    operation.insert("responses".into(), responses);
    Value::Object(operation)
}

fn content((media_type, schema): &Body) -> (String, Value) {
    let content = match (*media_type, *schema) {
        (JSON, "") => json!({ "schema": { "type": "object" } }),
        (_, "") => json!({ "schema": { "type": "string" } }),
        (_, schema) => json!({ "schema": reference(schema) }),
    };
    ((*media_type).to_owned(), content)
}

fn parameters(route: &Route) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    let in_query = route.query.iter().map(|(name, kind, text)| {
        json!({ "name": name, "in": "query", "description": text, "schema": { "type": kind } })
    });
    in_path.chain(in_query).collect()
}

/// For example `postCallsTokens`; what ends in a parameter is `…One`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !matches!(*word, "" | "v1" | "call" | "session"));
    let capital = |word: &str| {
        word.chars().take(1).map(|c| c.to_ascii_uppercase()).chain(word.chars().skip(1)).collect::<String>()
    };
    let one = if route.path.ends_with('}') { "One" } else { "" };
    format!("{}{}{one}", route.method.as_str().to_lowercase(), words.map(capital).collect::<String>())
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
        // The messages of the events connection, which OpenAPI has no place for.
        let messages = ["Notice", "Request"].map(|name| format!("#/components/schemas/{name}"));
        found.extend(messages);
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
        }
    }

    #[test]
    fn every_route_is_in_the_document_under_an_id_of_its_own() {
        let document = document();
        let mut seen = BTreeSet::new();
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{} is missing", route.path));
            assert!(seen.insert(id.to_owned()), "{id} twice");
        }
    }

    #[test]
    fn every_route_is_in_the_manual() {
        let manual = include_str!("../../../docs/API.md");
        let relay = manual.split("\n# The relay's API").nth(1).expect("docs/API.md has a part on the relay");
        for route in ROUTES {
            let start = format!("| `{} {}` |", route.method.as_str(), route.path);
            assert!(relay.contains(&start), "docs/API.md has no row that starts with {start}");
        }
    }
}
