// SPDX-License-Identifier: GPL-2.0-only

//! The fence-peer handler, which the daemon runs when the module asks for it.

use crate::rig::{eventually, Cluster, Node};
use std::path::{Path, PathBuf};
use std::process::Command;
use weft_uapi::control::{padded_name, Fence, MessageHeader, KERN_FENCE};
use weft_uapi::state::FenceOutcome;
use zerocopy::FromZeros;

/// A node whose resource has this program as its handler, which may take so many seconds.
fn node_with(program: &Path, seconds: u64) -> (Cluster, Node) {
    let mut cluster = Cluster::new(2);
    cluster.resources = format!(
        "[[resource]]\nname = \"r0\"\nfencing = \"resource-only\"\n\
         [resource.handlers]\nfence-peer = \"{}\"\nfence-peer-timeout = {seconds}\n\
         [[resource.volume]]\nid = 0\nminor = 7\ndisk = \"/dev/vda\"\n",
        program.display()
    );
    let node = cluster.start(0);
    (cluster, node)
}

/// A program made of a shell script. Written by another process: a file that is open for writing, perhaps in a process
/// that another test has just forked, cannot be run.
fn script(folder: &Path, lines: &str) -> PathBuf {
    let path = folder.join("fence");
    let text = format!("#!/bin/sh\n{lines}\n");
    let write = "printf %s \"$1\" > \"$2\" && chmod 755 \"$2\"";
    let written = Command::new("sh")
        .args(["-c", write, "sh", &text])
        .arg(&path)
        .status();
    assert!(written.unwrap().success());
    path
}

fn fenced(node: &Node, number: u64) -> FenceOutcome {
    let answer = node.module.fence(&Fence {
        header: MessageHeader::of::<Fence>(KERN_FENCE),
        peer: 1,
        number,
        resource: padded_name("r0").unwrap(),
        ..Fence::new_zeroed()
    });
    assert_eq!((answer.peer, answer.number), (1, number));
    FenceOutcome::from_number(answer.outcome).unwrap()
}

#[test]
fn an_exit_code_says_what_became_of_the_peer() {
    let folder = tempfile::tempdir().unwrap();
    let program = script(folder.path(), "exit $(cat \"$0.code\")");
    let (_cluster, node) = node_with(&program, 60);
    let codes = [
        (3, FenceOutcome::Inconsistent),
        (4, FenceOutcome::Outdated),
        (5, FenceOutcome::Unreachable),
        (6, FenceOutcome::Primary),
        (7, FenceOutcome::Stonithed),
        (0, FenceOutcome::Failed),
        (1, FenceOutcome::Failed),
        (8, FenceOutcome::Failed),
        (127, FenceOutcome::Failed),
    ];
    for (number, (code, outcome)) in codes.into_iter().enumerate() {
        std::fs::write(program.with_extension("code"), code.to_string()).unwrap();
        assert_eq!(fenced(&node, number as u64), outcome, "exit code {code}");
    }
}

#[test]
fn a_handler_learns_whom_to_fence_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let lines = format!("env | grep ^WEFT_ | sort > {}; exit 7", seen.display());
    let (cluster, node) = node_with(&script(folder.path(), &lines), 60);
    assert_eq!(fenced(&node, 1), FenceOutcome::Stonithed);
    let address = cluster.address(1).ip();
    let wanted = format!(
        "WEFT_MINORS=7\nWEFT_NODE=n0\nWEFT_NODE_ID=0\nWEFT_PEER=n1\nWEFT_PEER_ADDRESS={address}\nWEFT_PEER_ID=1\n\
         WEFT_RESOURCE=r0\n"
    );
    assert_eq!(std::fs::read_to_string(&seen).unwrap(), wanted);
}

#[test]
fn a_handler_that_takes_too_long_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let lines = format!("sleep 3600 & echo $! > {}; wait", pid.display());
    let (_cluster, node) = node_with(&script(folder.path(), &lines), 1);
    assert_eq!(fenced(&node, 1), FenceOutcome::Failed);
    let pid = std::fs::read_to_string(&pid).unwrap();
    let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
    eventually("the handler's child is gone", || {
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

#[test]
fn a_handler_that_is_killed_or_cannot_be_run_fences_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let killed = script(folder.path(), "kill -9 $$");
    let (_cluster, node) = node_with(&killed, 60);
    assert_eq!(fenced(&node, 1), FenceOutcome::Failed);
    let text = folder.path().join("text");
    std::fs::write(&text, "exit 7").unwrap();
    for program in [text, folder.path().join("missing")] {
        let (_cluster, node) = node_with(&program, 60);
        assert_eq!(fenced(&node, 1), FenceOutcome::Failed, "{program:?}");
    }
}

#[test]
fn a_resource_without_a_handler_fences_nobody() {
    let cluster = Cluster::new(2);
    let node = cluster.start(0);
    assert_eq!(fenced(&node, 1), FenceOutcome::Failed);
}
