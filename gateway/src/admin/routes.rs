//! Every route of the admin API, once: the router, the role checks and the OpenAPI document are made from it.

use axum::routing::{MethodRouter, delete, get, post, put};
use trunkline_gateway_proto::directory::Role;

use super::{
    AdminState, administrators, audit, doctor, events, health, history, identity, networks, outbox, peers,
    relays, session, settings, tokens,
};

/// The methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody who can reach the port: these routes name no people and change nothing.
    Open,
    /// Who has a token or a session, also while a password or a second factor is due.
    Own,
    /// Who has a token or a session of this role or one above it.
    Role(Role),
}

/// What a route answers when all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// JSON of this schema.
    Json(&'static str),
    /// Something else, of this media type.
    Other(&'static str),
    /// No body.
    Nothing,
}

/// One route.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, as axum and OpenAPI both write it.
    pub path: &'static str,
    /// Who may use it.
    pub access: Access,
    /// One sentence.
    pub summary: &'static str,
    /// Query parameters: name, type, meaning.
    pub query: &'static [(&'static str, &'static str, &'static str)],
    /// Schema of the request's JSON body, when it takes one.
    pub request: Option<&'static str>,
    /// Status of success.
    pub status: u16,
    /// Body of success.
    pub content: Content,
    /// Makes the handler.
    pub handler: fn() -> MethodRouter<AdminState>,
}

const OWN: Access = Access::Own;
const VIEWER: Access = Access::Role(Role::Viewer);
const OPERATOR: Access = Access::Role(Role::Operator);
const ADMIN: Access = Access::Role(Role::Admin);

/// A route that looks: `GET`, 200, JSON, for viewers.
const fn look(
    path: &'static str,
    schema: &'static str,
    summary: &'static str,
    handler: fn() -> MethodRouter<AdminState>,
) -> Route {
    Route {
        method: Method::Get,
        path,
        access: VIEWER,
        summary,
        query: &[],
        request: None,
        status: 200,
        content: Content::Json(schema),
        handler,
    }
}

/// A route that changes something, answered with 204 and no body.
const fn change(
    access: Access,
    method: Method,
    path: &'static str,
    summary: &'static str,
    handler: fn() -> MethodRouter<AdminState>,
) -> Route {
    let content = Content::Nothing;
    Route { method, path, access, summary, query: &[], request: None, status: 204, content, handler }
}

impl Method {
    /// As HTTP writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

impl Route {
    const fn takes(self, schema: &'static str) -> Self {
        Self { request: Some(schema), ..self }
    }

    const fn answers(self, status: u16, schema: &'static str) -> Self {
        Self { status, content: Content::Json(schema), ..self }
    }

    const fn gives(self, media_type: &'static str) -> Self {
        Self { content: Content::Other(media_type), ..self }
    }

    const fn asks(self, query: &'static [(&'static str, &'static str, &'static str)]) -> Self {
        Self { query, ..self }
    }

    const fn open(self) -> Self {
        Self { access: Access::Open, ..self }
    }
}

/// Every route, in the order the documentation lists them.
pub static ROUTES: &[Route] = &[
    look("/healthz", "", "Whether the process is alive.", || get(health::healthz)).open().gives("text/plain"),
    look("/readyz", "", "Whether the gateway can do its work: hub, store and listeners.", || {
        get(health::readyz)
    })
    .open()
    .gives("text/plain"),
    look("/metrics", "", "Prometheus metrics. They name deployments and networks, never people.", || {
        get(health::metrics)
    })
    .open()
    .gives("text/plain"),
    look("/openapi.json", "", "The OpenAPI document of both APIs.", || get(health::openapi))
        .open()
        .gives("application/json"),
    change(Access::Open, Method::Post, "/admin/v1/session", "Log in to the console: sets a cookie.", || {
        post(session::log_in)
    })
    .takes("LogIn")
    .answers(200, "Session"),
    Route {
        access: OWN,
        ..look("/admin/v1/session", "Session", "Who asks, and what they must do first.", || {
            get(session::show)
        })
    },
    change(OWN, Method::Delete, "/admin/v1/session", "Log out.", || delete(session::log_out)),
    change(
        OWN,
        Method::Post,
        "/admin/v1/session/password",
        "Change one's own password; other sessions end.",
        || post(session::change_password),
    )
    .takes("PasswordChange"),
    change(
        OWN,
        Method::Post,
        "/admin/v1/session/totp",
        "Begin to set up a second factor: answers its secret, once.",
        || post(session::enrol),
    )
    .takes("Proof")
    .answers(200, "Enrolment"),
    change(
        OWN,
        Method::Put,
        "/admin/v1/session/totp",
        "Switch the second factor on with its first code.",
        || put(session::enrol_finish),
    )
    .takes("Code"),
    change(OWN, Method::Post, "/admin/v1/session/totp/off", "Switch the second factor off.", || {
        post(session::totp_off)
    })
    .takes("Proof"),
    look("/admin/v1/status", "Status", "Everything at a glance.", || get(health::status)),
    change(
        OPERATOR,
        Method::Post,
        "/admin/v1/doctor",
        "What is wrong, and what to do: dials itself from outside, and looks at DNS, clock, disk, keys and peers.",
        || post(doctor::diagnose),
    )
    .answers(200, "Diagnosis"),
    look("/admin/v1/identity", "Identity", "Our certificate, and the one announced next.", || {
        get(identity::show)
    }),
    look("/admin/v1/identity/certificate", "", "Our certificate in PEM.", || get(identity::certificate))
        .gives("application/x-pem-file"),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/identity/rotate",
        "Make the next key pair and announce it.",
        || post(identity::rotate),
    )
    .answers(200, "Identity"),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/identity/activate",
        "Use the announced key pair from now on.",
        || post(identity::activate),
    )
    .takes("Activate")
    .answers(200, "Identity"),
    look("/admin/v1/peers", "Peers", "All peers.", || get(peers::list)),
    change(ADMIN, Method::Post, "/admin/v1/peers", "Add a peer, or replace one's details, by hand.", || {
        post(peers::add)
    })
    .takes("PeerAdd")
    .answers(201, "PeerAdded"),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/peers/invite",
        "Invite a peer: answers the bundle for it.",
        || post(peers::invite),
    )
    .takes("Invite")
    .answers(201, "Bundle"),
    change(
        OPERATOR,
        Method::Post,
        "/admin/v1/peers/preview",
        "What a bundle says, without trusting it.",
        || post(peers::preview),
    )
    .takes("PreviewBody")
    .answers(200, "Preview"),
    change(ADMIN, Method::Post, "/admin/v1/peers/accept", "Trust a bundle.", || post(peers::accept))
        .takes("Accept")
        .answers(200, "Accepted"),
    look("/admin/v1/peers/{domain}", "Peer", "One peer.", || get(peers::show)),
    change(ADMIN, Method::Delete, "/admin/v1/peers/{domain}", "End a peering; what waits is purged.", || {
        delete(peers::remove)
    }),
    change(
        OPERATOR,
        Method::Post,
        "/admin/v1/peers/{domain}/pause",
        "Stop a peering; envelopes wait.",
        || post(peers::pause),
    ),
    change(OPERATOR, Method::Post, "/admin/v1/peers/{domain}/resume", "Continue a peering.", || {
        post(peers::resume)
    }),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/peers/{domain}/rotate-key",
        "Replace the API key we issued.",
        || post(peers::rotate_key),
    ),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/peers/{domain}/retire-keys",
        "Drop all API keys but the newest.",
        || post(peers::retire_keys),
    ),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/peers/{domain}/revoke-pin",
        "Never accept a certificate key again.",
        || post(peers::revoke_pin),
    )
    .takes("RevokePin"),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/peers/{domain}/approve-domains",
        "Approve the peer's changed claim of local domains.",
        || post(peers::approve_domains),
    ),
    look("/admin/v1/networks", "Networks", "All networks.", || get(networks::list)),
    change(ADMIN, Method::Post, "/admin/v1/networks", "Add a network: answers its token, once.", || {
        post(networks::add)
    })
    .takes("NetworkSpec")
    .answers(201, "NetworkAdded"),
    look("/admin/v1/networks/{id}", "Network", "One network.", || get(networks::show)),
    change(ADMIN, Method::Put, "/admin/v1/networks/{id}", "Replace a network's settings.", || {
        put(networks::update)
    })
    .takes("NetworkSpec")
    .answers(200, "NetworkChanged"),
    change(ADMIN, Method::Delete, "/admin/v1/networks/{id}", "Remove a network.", || {
        delete(networks::remove)
    })
    .asks(&[("purge", "boolean", "Whether envelopes waiting in its inbox may be lost.")]),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/networks/{id}/token",
        "Add a token to a network: answers it, once. The oldest goes when there are two.",
        || post(networks::token),
    )
    .answers(201, "NetworkToken"),
    look("/admin/v1/outbox", "Outbox", "What waits for whom.", || get(outbox::show)),
    change(OPERATOR, Method::Post, "/admin/v1/outbox/retry", "Dial a peer now, or all of them.", || {
        post(outbox::retry)
    })
    .takes("Retry")
    .answers(200, "Count"),
    change(OPERATOR, Method::Post, "/admin/v1/outbox/purge", "Throw away what waits, with receipts.", || {
        post(outbox::purge)
    })
    .takes("Purge")
    .answers(200, "Count"),
    Route {
        access: ADMIN,
        ..look("/admin/v1/tokens", "Tokens", "All admin tokens, without the secrets.", || get(tokens::list))
    },
    change(ADMIN, Method::Post, "/admin/v1/tokens", "Add an admin token: answers it, once.", || {
        post(tokens::add)
    })
    .takes("TokenAdd")
    .answers(201, "TokenAdded"),
    change(ADMIN, Method::Delete, "/admin/v1/tokens/{label}", "Remove an admin token.", || {
        delete(tokens::remove)
    }),
    Route {
        access: ADMIN,
        ..look("/admin/v1/administrators", "Administrators", "All administrators of the console.", || {
            get(administrators::list)
        })
    },
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/administrators",
        "Add an administrator: answers the first password, once.",
        || post(administrators::add),
    )
    .takes("AdministratorAdd")
    .answers(201, "AdministratorAdded"),
    change(ADMIN, Method::Put, "/admin/v1/administrators/{name}", "Change an administrator's role.", || {
        put(administrators::set_role)
    })
    .takes("AdministratorRole"),
    change(ADMIN, Method::Delete, "/admin/v1/administrators/{name}", "Remove an administrator.", || {
        delete(administrators::remove)
    }),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/administrators/{name}/password",
        "Reset a password: answers a new first one, once.",
        || post(administrators::reset_password),
    )
    .answers(200, "AdministratorPassword"),
    change(
        ADMIN,
        Method::Post,
        "/admin/v1/administrators/{name}/totp/off",
        "Switch off the second factor of somebody who lost it.",
        || post(administrators::totp_off),
    ),
    look("/admin/v1/settings", "Settings", "Settings that change while the gateway runs.", || {
        get(settings::show)
    }),
    change(
        ADMIN,
        Method::Put,
        "/admin/v1/settings",
        "Change settings, or take them back to the configuration file's.",
        || put(settings::change),
    )
    .takes("SettingsChange")
    .answers(200, "Settings"),
    look("/admin/v1/audit", "Audit", "Audit entries, in either order.", || get(audit::list)).asks(&[
        ("after", "integer", "Entries after this sequence number."),
        ("before", "integer", "Entries before this one; the newest first unless `order` says."),
        ("order", "string", "`oldest` or `newest` first; `oldest` unless given."),
        (
            "q",
            "string",
            "Only entries with this text in actor, action, target or outcome, in any case. One request looks at 10,000 \
             entries at most: `next` goes on.",
        ),
        ("max", "integer", "At most so many, up to 1000; 100 unless given."),
    ]),
    look("/admin/v1/audit/verify", "AuditVerified", "Whether the audit log's hash chain holds.", || {
        get(audit::verify)
    }),
    look("/admin/v1/history", "History", "Envelopes and queues over the last twenty minutes.", || {
        get(history::show)
    })
    .asks(&[("peer", "string", "Of this peer; the sum of all unless given.")]),
    look("/admin/v1/relays", "Relays", "The deployment's relays, and how they are.", || get(relays::list)),
    change(
        OPERATOR,
        Method::Post,
        "/admin/v1/relays/{name}/drain",
        "Let a relay node take nobody new; with a deadline, its calls move or end by then.",
        || post(relays::drain),
    )
    .takes("RelayDrain"),
    change(OPERATOR, Method::Delete, "/admin/v1/relays/{name}/drain", "Undo a drain.", || {
        delete(relays::undrain)
    }),
    look("/admin/v1/calls", "RelayCalls", "Live calls on the deployment's relays, without people.", || {
        get(relays::calls)
    }),
    look("/admin/v1/calls/history", "CallsHistory", "Calls over the last twenty minutes.", || {
        get(relays::history)
    }),
    change(OPERATOR, Method::Delete, "/admin/v1/calls/{call}", "End a call, for everybody on it.", || {
        delete(relays::end)
    }),
    look("/admin/v1/events", "", "Events as they happen (server-sent events).", || get(events::follow))
        .gives("text/event-stream"),
];
