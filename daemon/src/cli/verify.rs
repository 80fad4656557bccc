// SPDX-License-Identifier: GPL-2.0-only

//! `verify`, `verify-stop` and `repair`.

use super::failure::Failure;
use super::orders::{Pair, Running};
use super::output::print;
use super::wait;
use super::weft::for_each;
use crate::kernel::netlink::request::{Request, Value};
use crate::view::model::Resource;
use crate::view::units::{bytes_of, size};
use crate::view::verify::Verify;
use clap::Args;
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::VerifyState;

/// Which copies.
#[derive(Args, Debug)]
pub(super) struct Copies {
    /// Name of the resource
    resource: String,
    /// Only with this peer, by name or id [default: the primary, or on the primary, and where there is none, every peer]
    peer: Option<String>,
    /// Only this volume
    #[arg(long)]
    volume: Option<u16>,
}

/// What is typed after `verify`.
#[derive(Args, Debug)]
pub(super) struct VerifyArguments {
    #[command(flatten)]
    copies: Copies,
    /// First byte to be compared; K, M, G and T stand for binary units [default: 0]
    #[arg(long, value_name = "SIZE", value_parser = bytes_of)]
    start: Option<u64>,
    /// The byte after the last one [default: the end of the device]
    #[arg(long, value_name = "SIZE", value_parser = bytes_of)]
    stop: Option<u64>,
    /// Go on from where the last verify ended before it was through
    #[arg(long, conflicts_with_all = ["start", "stop"])]
    resume: bool,
    /// Do not wait for its end
    #[arg(long, conflicts_with_all = ["repair_from", "majority"])]
    no_wait: bool,
    /// Then copy what differs from this node, by name or id, to the other one
    #[arg(long, value_name = "NODE")]
    repair_from: Option<String>,
    /// Then copy from this node to a peer whose copy alone differs; of three copies or more
    #[arg(long, conflicts_with_all = ["repair_from", "peer"])]
    majority: bool,
}

/// Whose data are right where two copies differ.
enum Right {
    /// Nobody says so.
    Unknown,
    /// This node's, by its id.
    Node(u32),
    /// Those of this node, with this id, if more than half of the copies agree with it.
    Majority(u32),
}

/// Compares copies, and waits for the end unless told otherwise.
pub(super) fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let VerifyArguments {
        copies,
        start,
        stop,
        resume,
        ..
    } = arguments;
    let mut running = Running::find(&copies.resource)?;
    let pairs = running.pairs(copies.peer.as_deref(), copies.volume)?;
    let right = match (arguments.majority, &arguments.repair_from) {
        (true, _) => Right::Majority(running.own_id()),
        (false, Some(typed)) => Right::Node(running.node(typed)?),
        (false, None) => Right::Unknown,
    };
    let mut begun = Vec::new();
    let ordered = for_each(&pairs, |&pair| {
        let request = running.about(Command::Verify, pair);
        let request = with_long(request, Attribute::Start, *start);
        let request = with_long(request, Attribute::Stop, *stop);
        running.perform(&request.flag(Attribute::Resume, *resume))?;
        begun.push(pair);
        Ok(())
    });
    if arguments.no_wait || begun.is_empty() {
        return ordered;
    }
    wait::wait(&copies.resource, "compared", wait::compared, None)?;
    let resource = running.look_again()?;
    let compared = for_each(&begun, |&pair| match told(&resource, pair) {
        Err(failure) if failure.code == DIFFERENT => {
            let from = source(&resource, pair, &begun, &right, failure)?;
            running.perform(&repair_request(&running, pair, from))?;
            wait::wait(&copies.resource, "in sync", wait::in_sync, None)?;
            through(&resource, pair).map(drop)
        }
        told => told,
    });
    for_each(&[ordered, compared], Clone::clone)
}

/// From which node a peer is to be repaired; the failure if that is not known.
fn source(
    resource: &Resource,
    pair: Pair,
    begun: &[Pair],
    right: &Right,
    failure: Failure,
) -> Result<u32, Failure> {
    let node = match right {
        Right::Unknown => return Err(failure),
        Right::Node(node) => *node,
        Right::Majority(own) if is_outvoted(resource, pair, begun) => *own,
        Right::Majority(_) => {
            let (name, peer) = (&resource.name, pair.peer);
            return Err(Failure::new(
                "no-majority",
                format!("{} No majority of the copies agrees with this one there.", failure.cause),
                failure.object,
                format!(
                    "without a primary, on node {peer}: weft verify {name} OTHER; then, from the node whose data are right: \
                     weft repair {name} {peer} --from NODE"
                ),
            ));
        }
    };
    eprintln!("weft: {failure}");
    Ok(node)
}

/// Whether a peer's copy alone differs. What was compared on another day says nothing.
fn is_outvoted(resource: &Resource, pair: Pair, begun: &[Pair]) -> bool {
    let mirrors = resource.connections.iter().filter(|one| !one.tie_breaker);
    let others = mirrors.filter(|one| one.node_id != pair.peer);
    let others = others.map(|one| Pair {
        peer: one.node_id,
        ..pair
    });
    let compared = |other: Pair| other.verify_in(resource).filter(|_| begun.contains(&other));
    let others: Vec<_> = others.map(compared).collect();
    let verify = pair.verify_in(resource);
    verify.is_some_and(|verify| verify.is_outvoted(&others))
}

/// Ends what is running.
pub(super) fn stop(copies: &Copies) -> Result<(), Failure> {
    let mut running = Running::find(&copies.resource)?;
    let pairs = running.pairs(copies.peer.as_deref(), copies.volume)?;
    let is_running = |pair: &Pair| running.verify(*pair).is_some_and(Verify::is_running);
    let those: Vec<_> = pairs.iter().copied().filter(is_running).collect();
    // With nothing to be ended the module says so.
    let those = if those.is_empty() { pairs } else { those };
    for_each(&those, |&pair| {
        running.perform(&running.about(Command::VerifyStop, pair))
    })
}

/// What is typed after `repair`.
#[derive(Args, Debug)]
pub(super) struct RepairArguments {
    /// Name of the resource
    resource: String,
    /// The other copy, by name or id
    peer: String,
    /// Only this volume
    #[arg(long)]
    volume: Option<u16>,
    /// Node whose data are right, by name or id: this one or the peer
    #[arg(long, value_name = "NODE")]
    from: String,
}

/// Copies what was found; goes on by itself.
pub(super) fn repair(arguments: &RepairArguments) -> Result<(), Failure> {
    let mut running = Running::find(&arguments.resource)?;
    let from = running.node(&arguments.from)?;
    let pairs = running.pairs(Some(&arguments.peer), arguments.volume)?;
    for_each(&pairs, |&pair| {
        running.perform(&repair_request(&running, pair, from))
    })
}

fn repair_request(running: &Running, pair: Pair, from: u32) -> Request {
    let request = running.about(Command::Repair, pair);
    request.number(Attribute::From, from)
}

fn with_long(request: Request, attribute: Attribute, number: Option<u64>) -> Request {
    match number {
        Some(number) => request.with(attribute, Value::U64(number)),
        None => request,
    }
}

const DIFFERENT: &str = "differences-found";

fn object(resource: &Resource, pair: Pair) -> String {
    let (name, Pair { volume, peer, .. }) = (&resource.name, pair);
    format!("resource {name}, volume {volume}, peer {peer}")
}

/// The comparison, if it came to its end.
fn through(resource: &Resource, pair: Pair) -> Result<&Verify, Failure> {
    let (name, peer, object) = (&resource.name, pair.peer, object(resource, pair));
    let Some(verify) = pair.verify_in(resource) else {
        return Err(Failure::refusal(Refusal::Interrupted, object, name));
    };
    if verify.state() != VerifyState::Finished {
        return Err(Failure::new(
            "not-through",
            format!(
                "The comparison ended at byte {} of {}: {}.",
                verify.upto, verify.stop, verify.state
            ),
            object,
            format!("weft status {name}; weft verify {name} {peer} --resume"),
        ));
    }
    Ok(verify)
}

/// Says how two copies compare.
fn told(resource: &Resource, pair: Pair) -> Result<(), Failure> {
    let (name, peer, object) = (&resource.name, pair.peer, object(resource, pair));
    let differing = pair.verify_in(resource).filter(|it| it.differing_bytes > 0);
    if let Some(verify) = differing {
        let (differing, places) = (size(verify.differing_bytes), verify.places());
        return Err(Failure::new(
            DIFFERENT,
            format!("{differing} differ, in bytes {places}."),
            object,
            format!("from the node whose data are right: weft repair {name} {peer} --from NODE"),
        ));
    }
    let verify = through(resource, pair)?;
    let seconds = verify.ms as f64 / 1000.0;
    let total = size(verify.total_bytes());
    print(&format!("{object}: equal ({total} in {seconds:.1} s)\n"))
}
