// SPDX-License-Identifier: GPL-2.0-only

//! Following events: a snapshot, then every change; whoever missed one is told and gets a new snapshot.

use super::failure::Failure;
use super::output::{print, print_json_line};
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::error::NetlinkError;
use crate::kernel::netlink::record::Record;
use crate::kernel::netlink::request::Request;
use crate::view::event::Line;
use weft_uapi::netlink::{Attribute, Command};

/// Prints events of one resource or all until nobody reads them any more.
///
/// # Errors
/// When the module goes away or the output is closed.
pub(super) fn follow(resource: Option<&str>, json: bool) -> Result<(), Failure> {
    let mut listener = Client::open()?;
    // Subscribed before the snapshot is taken: what changes in between is told twice rather than not at all.
    listener.subscribe()?;
    let mut client = Client::open()?;
    let show = |line: &Line| {
        if json {
            print_json_line(line)
        } else {
            print(&(line.text() + "\n"))
        }
    };
    let is_wanted = |line: &Line| {
        resource.is_none() || line.resource.is_none() || line.resource.as_deref() == resource
    };
    snapshot(&mut client, resource, &show)?;
    let mut gaps = Gaps::default();
    loop {
        let (events, mut lost) = match listener.events(None) {
            Ok(events) => (events, None),
            Err(NetlinkError::Overrun) => {
                (Vec::new(), Some("the listener was too slow".to_owned()))
            }
            Err(error) => return Err(error.into()),
        };
        for event in events {
            lost = lost.or(gaps.next(event.sequence));
            let line = Line::event(&event);
            if is_wanted(&line) {
                show(&line)?;
            }
        }
        if let Some(why) = lost {
            show(&Line::of(
                "lost",
                None,
                None,
                &format!("{why}; here is what is now"),
            ))?;
            snapshot(&mut client, resource, &show)?;
            gaps = Gaps::default();
        }
    }
}

fn snapshot(
    client: &mut Client,
    resource: Option<&str>,
    show: &impl Fn(&Line) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for record in status(client, resource)? {
        show(&Line::of("exists", None, Some(&record), ""))?;
    }
    show(&Line::of("snapshot-end", None, None, ""))
}

/// The records of a status dump.
pub(super) fn status(client: &mut Client, resource: Option<&str>) -> Result<Vec<Record>, Failure> {
    let mut request = Request::new(Command::Status);
    if let Some(resource) = resource {
        request = request.text(Attribute::Resource, resource);
    }
    client
        .dump(&request)
        .map_err(|error| Failure::of_request(&request, &error))
}

/// Finds holes in the numbers of events.
#[derive(Default)]
struct Gaps {
    last: Option<u64>,
}

impl Gaps {
    /// A sentence when events are missing before this one.
    fn next(&mut self, sequence: u64) -> Option<String> {
        let last = self.last.replace(sequence)?;
        (sequence != last.wrapping_add(1))
            .then(|| format!("events after {last} and before {sequence} were lost"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d50_a_hole_in_the_numbers_is_noticed_once() {
        let mut gaps = Gaps::default();
        let holes = [7, 8, 11, 12].map(|sequence| gaps.next(sequence));
        let found = Some("events after 8 and before 11 were lost".to_owned());
        assert_eq!(holes, [None, None, found, None]);
    }
}
