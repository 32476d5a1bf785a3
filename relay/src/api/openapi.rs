//! The OpenAPI 3.1 document, made from [`super::routes::ROUTES`], so that it cannot miss a route; schemas are written
//! down in `openapi/schemas.json`.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use trunkline_http::openapi::{self, Operation, reference};

use super::routes::{Access, Body, JSON, ROUTES};

/// Schemas of bodies and of the events connection's messages.
const SCHEMAS: &str = include_str!("openapi/schemas.json");

static DOCUMENT: LazyLock<Value> = LazyLock::new(build);

/// The document.
#[must_use]
pub fn document() -> Value {
    DOCUMENT.clone()
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let (security, tag) = match route.access {
            Access::Open => (json!([]), "operation"),
            Access::Metrics => (json!([{}, { "admin": [] }]), "operation"),
            Access::Admin => (json!([{ "admin": [] }]), "calls"),
            Access::Join => (json!([{ "join": [] }]), "participants"),
            Access::Session => (json!([{}, { "join": [] }]), "participants"),
        };
        let (method, path, summary) = (route.method.as_str(), route.path, route.summary);
        let takes = route.takes.iter().map(content).collect();
        let gives = route.gives.iter().map(content).collect();
        let (query, status) = (route.query, route.status);
        let operation = Operation { method, path, summary, tag, security, query, takes, status, gives };
        operation.put(&mut paths, Map::new());
    }
    let description = "For calling services (admin token) and for the people on calls (join token, then the session's \
            URL). docs/API.md explains the events connection.";
    let tags = &["calls", "participants", "operation"];
    let security = json!({
        "admin": { "type": "http", "scheme": "bearer", "description": "The node's admin token." },
        "join": {
            "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "A join token: `sub`, `call`, `role`, `exp`.",
        },
    });
    openapi::document("Trunkline relay", description, tags, paths, openapi::object(SCHEMAS), security)
}

fn content((media_type, schema): &Body) -> (String, Value) {
    let content = match (*media_type, *schema) {
        (JSON, "") => json!({ "schema": { "type": "object" } }),
        (_, "") => json!({ "schema": { "type": "string" } }),
        (_, schema) => json!({ "schema": reference(schema) }),
    };
    ((*media_type).to_owned(), content)
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
