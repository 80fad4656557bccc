// SPDX-License-Identifier: GPL-2.0-only

//! Commands over generic netlink: from the checked request to an action of a resource, and dumps of the status.
//!
//! A handler never waits: it queues an [`Action`] on the resource and returns; the [`Answer`] sends the reply when the
//! action is done. Order of the checks: command, capability, attributes (all by `sys/genl.rs` and [`Arguments::check`]),
//! then whether the object exists, then (by the engine) whether the state allows it.

mod action;
mod answer;
mod dump;
mod events;
mod record;

pub(crate) use action::Action;
pub(crate) use answer::Answer;
pub(crate) use events::{Events, Known};

use crate::host::Host;
use crate::sys::genl::{Arguments, DumpPosition, DumpWriter, Handler, Registration, Reply};
use kernel::{prelude::*, sync::Arc};
use weft_uapi::netlink::{Attribute, Command, CommandSpec};
use weft_uapi::refusal::Refusal;

/// Registers the family; dropping the result removes it.
pub(crate) fn register(host: Arc<Host>) -> Result<Registration> {
    Registration::new(Arc::new(Netlink { host }, GFP_KERNEL)?)
}

/// Answers the requests of the family.
struct Netlink {
    host: Arc<Host>,
}

impl Netlink {
    /// `EINVAL` when an argument that was checked does not mean anything all the same, `ENOMEM`.
    fn carry_out(&self, command: Command, arguments: &Arguments<'_>) -> Result<Outcome> {
        let name = arguments.text(Attribute::Resource).ok_or(EINVAL)?;
        if command == Command::NewResource {
            let node = action::node(arguments, Attribute::NodeId).ok_or(EINVAL)?;
            let options = action::options(arguments)?;
            let is_tie_breaker = arguments.flag(Attribute::TieBreaker);
            let after = action::after(arguments)?.flatten();
            let made = self
                .host
                .new_resource(name, node, options, after, is_tie_breaker);
            return Ok(Outcome::Done(made));
        }
        let Some(action) = Action::parse(command, arguments)? else {
            return Ok(Outcome::Done(Err(Refusal::UnknownCommand)));
        };
        Ok(match self.host.registry.find(name) {
            Some(resource) => Outcome::Queue(resource, action),
            None => Outcome::Done(Err(Refusal::NoSuchResource)),
        })
    }
}

/// What a command leads to.
enum Outcome {
    Done(Result<(), Refusal>),
    Queue(Arc<crate::resource::Resource>, Action),
}

impl Handler for Netlink {
    fn on_command(&self, spec: &'static CommandSpec, arguments: &Arguments<'_>, reply: Reply) {
        if let Err((refusal, attribute)) = arguments.check(spec) {
            return reply.refuse(
                refusal,
                format_args!("{} Argument: {}.", refusal.text(), attribute.name()),
            );
        }
        let name = arguments.text(Attribute::Resource).unwrap_or("");
        match self.carry_out(spec.command, arguments) {
            Ok(Outcome::Queue(resource, action)) => resource.act(action, Answer::new(reply)),
            Ok(Outcome::Done(Ok(()))) => reply.done(),
            Ok(Outcome::Done(Err(refusal))) => refuse(reply, refusal, name),
            Err(error) if error == ENOMEM => refuse(reply, Refusal::NoMemory, name),
            Err(_) => refuse(reply, Refusal::BadArgument, name),
        }
    }

    fn on_dump(
        &self,
        spec: &'static CommandSpec,
        arguments: &Arguments<'_>,
        position: &mut DumpPosition,
        writer: &mut DumpWriter<'_>,
    ) -> Result {
        dump::go_on(
            &self.host.registry,
            spec.command,
            arguments.text(Attribute::Resource),
            position,
            writer,
        )
    }
}

fn refuse(reply: Reply, refusal: Refusal, name: &str) {
    reply.refuse(
        refusal,
        format_args!("{} Resource: {name}.", refusal.text()),
    );
}
