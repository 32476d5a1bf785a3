//! The OpenAPI 3.1 document of both HTTP APIs. The admin API's part is made from [`super::routes::ROUTES`], so it
//! cannot miss a route; the local API's part and all schemas are written down in `openapi/`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use trunkline_http::openapi::{self, Operation, reference};

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
    let mut local = openapi::object(LOCAL);
    let mut take = |part: &str| match local.remove(part) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    };
    let (mut paths, mut schemas) = (take("paths"), take("schemas"));
    schemas.extend(openapi::object(SCHEMAS));
    for route in ROUTES {
        let (tag, security, more) = opened_by(route);
        let (method, path, summary) = (route.method.as_str(), route.path, route.summary);
        let json = |schema| json!({ "schema": reference(schema) });
        let takes = route.request.map(|schema| ("application/json".to_owned(), json(schema)));
        let gives = match route.content {
            Content::Json(schema) => Some(("application/json".to_owned(), json(schema))),
            Content::Other(media_type) => Some((media_type.to_owned(), json!({}))),
            Content::Nothing => None,
        };
        let (takes, gives) = (takes.into_iter().collect(), gives.into_iter().collect());
        let (query, status) = (route.query, route.status);
        let operation = Operation { method, path, summary, tag, security, query, takes, status, gives };
        operation.put(&mut paths, more);
    }
    let description = "Paths below /v1 are the local API, for a deployment's own messaging servers, opened by a \
            network's token. All others are the admin API, opened by an admin token or a session. The two listen on \
            different ports. Times are milliseconds since the Unix epoch.";
    let tags = &["local", "admin", "health"];
    let security = json!({
        "network": { "type": "http", "scheme": "bearer", "description": "A network's token." },
        "admin": { "type": "http", "scheme": "bearer", "description": "An admin token." },
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "trunkline_*",
            "description": "A console session. The name ends in the first 8 hexadecimal digits of the SHA-256 \
                of the federation domain. Whatever is no GET also takes the header X-Trunkline-Csrf with the \
                session's `csrf`.",
        },
    });
    openapi::document("Trunkline gateway", description, tags, paths, schemas, security)
}

/// What a route belongs to, what opens it, and what is said of that.
fn opened_by(route: &Route) -> (&'static str, Value, Map<String, Value>) {
    let mut more = Map::new();
    match route.access {
        Access::Open => {
            let tag = if route.path.starts_with("/admin/") { "admin" } else { "health" };
            return (tag, json!([]), more);
        }
        Access::Own => {
            let text = "Takes a token or a session, also while a new password or a second factor is due.";
            more.insert("description".into(), text.into());
        }
        Access::Role(needed) => {
            more.insert("x-role".into(), role(needed).into());
            let text = format!("Takes a token or a session of role `{}` or above.", role(needed));
            more.insert("description".into(), text.into());
        }
    }
    ("admin", json!([{ "admin": [] }, { "session": [] }]), more)
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
