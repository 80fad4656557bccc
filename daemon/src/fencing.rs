// SPDX-License-Identifier: GPL-2.0-only

//! The fence-peer handler: a program of the administrator that makes sure that a peer out of reach does not go on.
//!
//! It is run without arguments, in a process group of its own, with nothing in its environment but a path and
//! `WEFT_RESOURCE`, `WEFT_NODE`, `WEFT_NODE_ID`, `WEFT_PEER`, `WEFT_PEER_ID`, `WEFT_PEER_ADDRESS` and `WEFT_MINORS`. Its exit code
//! is a [`FenceOutcome`]; everything else means that the peer may still go on.

use crate::config::Config;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use weft_uapi::control::{name_of, Fence, MessageHeader, FENCED};
use weft_uapi::state::FenceOutcome;
use weft_uapi::units::NodeId;

/// Where programs are looked for by a handler.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often it is looked whether the handler has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A handler to be run.
#[derive(Debug)]
pub struct Handler {
    question: Fence,
    command: Command,
    timeout: Duration,
}

impl Handler {
    /// What the configuration says about a question of the module.
    ///
    /// # Errors
    /// Why there is nothing to be run.
    pub fn of(question: &Fence, config: &Config, node: NodeId) -> Result<Self, String> {
        let name = name_of(&question.resource).unwrap_or("?");
        let resource = config.resource(name);
        let resource = resource.ok_or_else(|| format!("resource {name} is not configured"))?;
        let handler = resource.fence_peer.as_ref();
        let handler =
            handler.ok_or_else(|| format!("resource {name} has no fence-peer handler"))?;
        let of = |id: Option<NodeId>| id.and_then(|id| config.nodes.get(&id));
        let peer = of(NodeId::new(question.peer));
        let peer = peer.ok_or_else(|| format!("node {} is not configured", question.peer))?;
        let own = of(Some(node)).ok_or("this node is not configured")?;
        let minors: Vec<_> = resource
            .volumes
            .iter()
            .map(|it| it.minor.to_string())
            .collect();
        let mut command = Command::new(&handler.program);
        command
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("WEFT_RESOURCE", name)
            .env("WEFT_NODE", &own.name)
            .env("WEFT_NODE_ID", own.id.to_string())
            .env("WEFT_PEER", &peer.name)
            .env("WEFT_PEER_ID", peer.id.to_string())
            .env("WEFT_PEER_ADDRESS", peer.address.ip().to_string())
            .env("WEFT_MINORS", minors.join(" "))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0);
        Ok(Self {
            question: *question,
            command,
            timeout: handler.timeout,
        })
    }

    /// Runs it to its end, or kills it when its time is over. Takes long.
    pub fn run(mut self) -> Fence {
        let name = name_of(&self.question.resource).unwrap_or("?").to_owned();
        let peer = self.question.peer;
        log::warn!("resource {name}: running the fence-peer handler for node {peer}");
        let outcome = match self.command.spawn() {
            Ok(child) => wait(child, self.timeout),
            Err(error) => Err(format!("cannot be run: {error}")),
        };
        let outcome = outcome.unwrap_or_else(|why| {
            log::error!("resource {name}: the fence-peer handler for node {peer} {why}");
            FenceOutcome::Failed
        });
        log::warn!("resource {name}: fence-peer for node {peer}: {outcome}");
        answer(&self.question, outcome)
    }
}

/// The answer to a question.
pub fn answer(question: &Fence, outcome: FenceOutcome) -> Fence {
    Fence {
        header: MessageHeader::of::<Fence>(FENCED),
        outcome: outcome.number(),
        ..*question
    }
}

fn wait(mut child: Child, timeout: Duration) -> Result<FenceOutcome, String> {
    let end = Instant::now() + timeout;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return outcome_of(status),
            Ok(None) if Instant::now() < end => thread::park_timeout(LOOK_EVERY),
            Ok(None) => {
                kill(&mut child);
                return Err(format!("did not end within {} s", timeout.as_secs()));
            }
            Err(error) => {
                kill(&mut child);
                return Err(format!("cannot be waited for: {error}"));
            }
        }
    }
}

/// Kills the handler and everything that it started.
fn kill(child: &mut Child) {
    // Its children may live on after it has gone by itself.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let _ = child.wait();
}

fn outcome_of(status: ExitStatus) -> Result<FenceOutcome, String> {
    let code = status
        .code()
        .ok_or_else(|| format!("was ended by {status}"))?;
    let outcome = u32::try_from(code).ok().and_then(FenceOutcome::from_number);
    outcome
        .filter(|outcome| *outcome != FenceOutcome::Failed)
        .ok_or_else(|| format!("ended with exit code {code}, which says nothing about the peer"))
}
