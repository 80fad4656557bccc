// SPDX-License-Identifier: GPL-2.0-only

//! Why a command was not done: code, cause, object and the next thing to try.

use crate::config::ConfigError;
use crate::kernel::netlink::error::NetlinkError;
use crate::kernel::netlink::request::{Request, Value};
use crate::view::show::number_text;
use std::fmt;
use std::io;
use std::process::ExitCode;
use weft_uapi::netlink::Attribute;
use weft_uapi::refusal::Refusal;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For machines, for example `disk-open`.
    pub code: String,
    /// A sentence.
    pub cause: String,
    /// What it is about; may be empty.
    pub object: String,
    /// What to try next; may be empty.
    pub hint: String,
}

impl Failure {
    /// With everything.
    pub fn new(
        code: &str,
        cause: impl Into<String>,
        object: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.to_owned(),
            cause: cause.into(),
            object: object.into(),
            hint: hint.into(),
        }
    }

    /// A refusal that the module also knows.
    pub fn refusal(refusal: Refusal, object: impl Into<String>, resource: &str) -> Self {
        Self::new(
            refusal.name(),
            refusal.text(),
            object,
            refusal.hint().replace("RES", resource),
        )
    }

    /// A request that was not carried out.
    pub fn of_request(request: &Request, error: &NetlinkError) -> Self {
        Self::of_netlink(error, &object_of(request), resource_of(request))
    }

    fn of_netlink(error: &NetlinkError, object: &str, resource: &str) -> Self {
        let hint = |refusal: Refusal| refusal.hint().replace("RES", resource);
        match (error, error.refusal()) {
            (NetlinkError::ModuleMissing, _) => Self::new(
                "module-missing",
                "The kernel module weft is not loaded.",
                object,
                "modprobe weft",
            ),
            (_, Some(refusal)) => {
                Self::new(refusal.name(), error.to_string(), object, hint(refusal))
            }
            (NetlinkError::Refused(refused), None) => Self::new(
                &format!("code-{}", refused.code),
                error.to_string(),
                object,
                "use the weftsetup that belongs to the module: modinfo weft",
            ),
            _ => Self::new("netlink", error.to_string(), object, "dmesg | grep weft"),
        }
    }

    /// A file or device that failed.
    pub fn io(what: &str, error: &io::Error, hint: &str) -> Self {
        Self::new("io", error.to_string(), what, hint)
    }
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        Self::of_netlink(&error, "", "RES")
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(
            "config",
            error.to_string(),
            "",
            "mend the configuration; weft config check",
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.cause)?;
        for (name, value) in [("object", &self.object), ("try", &self.hint)] {
            if !value.is_empty() {
                write!(f, "\n  {name:<7} {value}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Prints a failure and gives the exit code.
pub fn conclude(program: &str, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{program}: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The resource of a request, for hints.
fn resource_of(request: &Request) -> &str {
    request
        .arguments
        .iter()
        .find_map(|(attribute, value)| match (attribute, value) {
            (Attribute::Resource, Value::Text(name)) => Some(name.as_str()),
            _ => None,
        })
        .unwrap_or("RES")
}

/// What a request is about: `resource r0, volume 0, disk /dev/vda`.
fn object_of(request: &Request) -> String {
    let parts = request
        .arguments
        .iter()
        .filter_map(|(attribute, value)| match value {
            Value::U32(number) => Some(format!("{attribute} {}", number_text(*attribute, *number))),
            Value::U64(number) => Some(format!("{attribute} {number}")),
            Value::Text(text) => Some(format!("{attribute} {text}")),
            Value::Flag => None,
        });
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::netlink::error::Refused;
    use weft_uapi::netlink::Command;

    #[test]
    fn a_refusal_shows_code_cause_object_and_the_next_command_with_the_resource_filled_in() {
        let request = Request::about(Command::Attach, "r0")
            .number(Attribute::Volume, 0)
            .text(Attribute::Disk, "/dev/vda")
            .text(Attribute::Meta, "internal");
        let refused = Refused {
            code: Refusal::MetaNone.number(),
            text: String::new(),
        };
        let failure = Failure::of_request(&request, &NetlinkError::Refused(refused));
        assert_eq!(
            failure.to_string(),
            "meta-none: The disk holds no Weft metadata; it may hold somebody else's data.\n\
             \x20 object  resource r0, volume 0, disk /dev/vda, meta internal\n\
             \x20 try     weft create-md r0 (destroys nothing but the metadata area; check the disk first)"
        );
    }

    #[test]
    fn what_the_netlink_core_refuses_has_a_code_of_the_table_too() {
        let request = Request::about(Command::Primary, "r0");
        let code = |errno| {
            let error = NetlinkError::Core(io::Error::from_raw_os_error(errno), None);
            Failure::of_request(&request, &error).code
        };
        assert_eq!(code(nix::libc::EPERM), "not-permitted");
        assert_eq!(code(nix::libc::EOPNOTSUPP), "unknown-command");
        assert_eq!(code(nix::libc::ERANGE), "bad-argument");
        assert_eq!(code(nix::libc::EIO), "netlink");
    }
}
