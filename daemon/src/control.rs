// SPDX-License-Identifier: GPL-2.0-only

//! The local control socket: one JSON object per line, request and reply.
//!
//! `{"id": 1, "method": "status"}` is answered with `{"id": 1, "result": …}` or
//! `{"id": 1, "error": {"code": …, "text": …}}`. Only root can open the socket.

pub mod client;
pub mod report;
pub mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where the daemon keeps its socket and lock unless somebody says otherwise.
pub const RUN_DIR: &str = "/run/weft";
/// Name of the socket in that directory.
pub const SOCKET_NAME: &str = "weftd.sock";

/// One request.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Comes back in the reply.
    pub id: u64,
    /// What is wanted.
    pub method: String,
}

/// One reply: exactly one of `result` and `error` is there.
#[derive(Serialize, Deserialize, Debug)]
pub struct Reply {
    /// Of the request; 0 when it could not be read.
    pub id: u64,
    /// What was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

impl Reply {
    /// What was wanted.
    pub fn result(id: u64, result: Value) -> Self {
        Self {
            id,
            result: Some(result),
            error: None,
        }
    }

    /// Why it is not to be had.
    pub fn fault(id: u64, code: &str, text: String) -> Self {
        Self {
            id,
            result: None,
            error: Some(Fault {
                code: code.to_owned(),
                text,
            }),
        }
    }
}

/// Why a request was refused.
#[derive(Serialize, Deserialize, Debug)]
pub struct Fault {
    /// For machines.
    pub code: String,
    /// For people.
    pub text: String,
}
