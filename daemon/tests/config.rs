// SPDX-License-Identifier: GPL-2.0-only

//! The configuration file: what is taken, and how what is not is explained.

use weft_daemon::config::{AutoPromotion, Config, ConfigError};
use weft_uapi::congestion::Congestion;
use weft_uapi::resync::Speed;
use weft_uapi::split_brain::{Policies, SplitBrain0, SplitBrain1};
use weft_uapi::state::{AutoPromote, Fencing, OnNoQuorum, Protocol, TwoPrimaries};
use weft_uapi::units::{NodeId, NodeSet};

const GOOD: &str = r#"[cluster]
name = "demo"
security = "none"
[[node]]
name = "alpha"
id = 0
address = "10.9.0.1:7790"
[[node]]
name = "beta"
id = 1
address = "[fd00::2]:7790"
[[resource]]
name = "r0"
protocol = "B"
[[resource.volume]]
id = 0
minor = 0
disk = "/dev/vda"
[[resource.volume]]
id = 1
minor = 1
disk = "/dev/vdb"
meta = "internal"
[resource.volume.on.beta]
disk = "/dev/sdb"
meta = "/dev/sdc"
"#;

#[test]
fn a_good_file_says_what_it_means() {
    let config = Config::parse(GOOD).unwrap();
    let (alpha, beta) = (NodeId::new(0).unwrap(), NodeId::new(1).unwrap());
    assert_eq!(config.cluster.ping_misses, 4);
    assert_eq!(config.this_node(Some("beta")).unwrap().id, beta);
    let resource = config.resource("r0").unwrap();
    assert_eq!((resource.protocol, resource.nodes.len()), (Protocol::B, 2));
    let disks = &resource.volumes[1].disks;
    assert_eq!(
        (disks[&alpha].disk.as_str(), disks[&alpha].meta_argument()),
        ("/dev/vdb", "internal")
    );
    assert_eq!(
        (disks[&beta].disk.as_str(), disks[&beta].meta_argument()),
        ("/dev/sdb", "/dev/sdc")
    );
}

/// Replaces one line of the good file and expects a fault there that says something.
#[track_caller]
fn fault(line: usize, replacement: &str, place: (usize, usize), says: &str) {
    let mut lines: Vec<_> = GOOD.lines().collect();
    lines[line - 1] = replacement;
    let error = Config::parse(&lines.join("\n")).unwrap_err();
    assert_eq!(error.place(), Some(place), "{error}");
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn a_block_size_is_that_of_the_volume_on_every_node() {
    let text = GOOD.replace("minor = 1", "minor = 1\nblock-size = 4096");
    let config = Config::parse(&text).unwrap();
    let volumes = &config.resource("r0").unwrap().volumes;
    let sizes = [volumes[0].block_bytes, volumes[1].block_bytes];
    assert_eq!(sizes, [None, Some(4096)]);
}

#[test]
fn g4_each_fault_is_told_with_line_column_and_cause() {
    fault(2, "name = demo", (2, 8), "");
    fault(2, "nam = \"demo\"", (2, 1), "unknown field `nam`");
    fault(5, "name = \"al/pha\"", (5, 8), "letters, digits");
    fault(6, "id = 32", (6, 6), "0 to 31");
    fault(6, "id = -1", (6, 6), "");
    fault(6, "id = 1", (10, 6), "node id 1 is used twice");
    fault(7, "address = \"10.9.0.1\"", (7, 11), "IP:PORT");
    fault(7, "address = \"0.0.0.0:7790\"", (7, 11), "cannot reach");
    fault(7, "address = \"[fd00::2]:7790\"", (11, 11), "used twice");
    fault(
        9,
        "name = \"alpha\"",
        (9, 8),
        "node name alpha is used twice",
    );
    fault(13, "name = \"all\"", (13, 8), "every resource");
    fault(14, "protocol = \"D\"", (14, 12), "\"A\", \"B\" or \"C\"");
    fault(
        14,
        "nodes = [\"alpha\", \"gamma\"]",
        (14, 19),
        "no node 'gamma'",
    );
    fault(14, "nodes = []", (14, 9), "no node");
    fault(
        14,
        "nodes = [\"alpha\"]",
        (24, 21),
        "beta is not a node of r0",
    );
    fault(16, "id = 255", (16, 6), "0 to 254");
    fault(17, "minor = 1048575", (17, 9), "0 to 1048574");
    fault(17, "minor = 1", (21, 9), "minor 1 is used twice");
    fault(18, "disk = \"vda\"", (18, 8), "absolute path");
    fault(
        17,
        "minor = 0\nblock-size = 1000",
        (18, 14),
        "power of two from 512 to 4096",
    );
    fault(
        18,
        "disk = \"/dev/vdb\"",
        (22, 8),
        "disk /dev/vdb is used twice",
    );
    fault(18, "", (16, 6), "no disk for node alpha");
    fault(20, "id = 0", (20, 6), "volume id 0 is used twice");
    fault(
        24,
        "[resource.volume.on.gamma]",
        (24, 21),
        "no node 'gamma'",
    );
    fault(26, "size = 5", (26, 1), "unknown field `size`");
}

#[test]
fn security_has_to_be_given_up_in_so_many_words() {
    fault(3, "", (2, 8), "say security = \"none\"");
    fault(3, "security = \"tls\"", (3, 12), "say security = \"none\"");
    fault(3, "security = \"ssh\"", (3, 12), "\"tls\" or \"none\"");
}

#[test]
fn the_heartbeat_has_bounds() {
    fault(
        3,
        "security = \"none\"\nping_misses = 0",
        (4, 15),
        "1 to 100",
    );
    fault(
        3,
        "security = \"none\"\nping_interval_ms = 1",
        (4, 20),
        "50 to 60000",
    );
}

#[test]
fn more_than_32_nodes_are_refused() {
    let node = |n: u32| {
        format!(
            "[[node]]\nname = \"n{n}\"\nid = {}\naddress = \"10.0.0.{}:1\"\n",
            n % 32,
            n + 1
        )
    };
    let nodes = |count| (0..count).map(node).collect::<String>();
    let text = |count| {
        format!(
            "[cluster]\nname = \"big\"\nsecurity = \"none\"\n{}",
            nodes(count)
        )
    };
    assert_eq!(Config::parse(&text(32)).unwrap().nodes.len(), 32);
    let error = Config::parse(&text(33)).unwrap_err();
    assert!(error.to_string().contains("more than 32 nodes"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(std::path::Path::new("/nonexistent/weft.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/weft.toml: cannot be read"),
        "{error}"
    );
}

#[test]
fn a_cut_or_garbled_file_never_panics() {
    for end in (0..GOOD.len()).filter(|&end| GOOD.is_char_boundary(end)) {
        let _ = Config::parse(&GOOD[..end]);
        let garbled: String = GOOD[..end].chars().rev().collect();
        assert!(end == 0 || Config::parse(&garbled).is_err());
    }
}

/// The good file with a third node and these lines about the resource.
fn three(lines: &str) -> String {
    let gamma = "[[node]]\nname = \"gamma\"\nid = 2\naddress = \"10.9.0.3:7790\"\n[[resource]]\n";
    GOOD.replace("[[resource]]\n", &format!("{gamma}{lines}"))
}

fn quorum_of(text: &str) -> (u32, OnNoQuorum) {
    let config = Config::parse(text).unwrap();
    let resource = config.resource("r0").unwrap();
    (resource.voters.0, resource.on_no_quorum)
}

#[test]
fn votes_count_by_themselves_from_three_voters_on() {
    let suspend = OnNoQuorum::Suspend;
    assert_eq!(quorum_of(GOOD), (0, suspend));
    assert_eq!(quorum_of(&three("")), (0b111, suspend));
    assert_eq!(quorum_of(&three("quorum = \"off\"\n")), (0, suspend));
    let two = GOOD.replace("[[resource]]\n", "[[resource]]\nquorum = \"majority\"\n");
    assert_eq!(quorum_of(&two), (0b11, suspend));
    let failing = three("on-no-quorum = \"io-error\"\n");
    assert_eq!(quorum_of(&failing), (0b111, OnNoQuorum::Fail));
    let listed = three("nodes = [\"alpha\", \"beta\"]\n");
    assert_eq!(quorum_of(&listed), (0, suspend));
}

#[test]
fn a_tie_breaker_keeps_no_disk_and_votes_when_that_makes_the_voters_odd() {
    let config = Config::parse(&three("tie-breakers = [\"gamma\"]\n")).unwrap();
    let resource = config.resource("r0").unwrap();
    assert_eq!((resource.voters.0, resource.tie_breakers.0), (0b111, 0b100));
    assert_eq!(resource.volumes[0].disks.len(), 2);
    let delta = "[[node]]\nname = \"delta\"\nid = 3\naddress = \"10.9.0.4:7790\"\n[[resource]]\n";
    let four = three("tie-breakers = [\"delta\"]\n").replace("[[resource]]\n", delta);
    let config = Config::parse(&four).unwrap();
    let resource = config.resource("r0").unwrap();
    assert_eq!(
        (resource.voters.0, resource.tie_breakers.0),
        (0b111, 0b1000)
    );
}

#[test]
fn two_primaries_are_refused_unless_the_file_allows_them() {
    let of =
        |text: &str| Config::parse(text).map(|config| config.resource("r0").unwrap().two_primaries);
    assert_eq!(of(GOOD).unwrap(), TwoPrimaries::Refused);
    let with = |line: &str| GOOD.replace("protocol = \"B\"\n", line);
    assert_eq!(
        of(&with("two-primaries = \"allowed\"\n")).unwrap(),
        TwoPrimaries::Allowed
    );
    let error = of(&with("two-primaries = \"yes\"\n"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("two-primaries is \"allowed\" or \"refused\""),
        "{error}"
    );
}

#[test]
fn r15_resyncs_are_as_fast_as_the_file_says() {
    let of = |text: &str| Config::parse(text).map(|config| config.resource("r0").unwrap().speed);
    let default = Speed::default();
    assert_eq!(of(GOOD).unwrap(), default);
    let with = |lines: &str| of(&GOOD.replace("protocol = \"B\"\n", lines));
    let all = "resync-min-rate = \"64K\"\nresync-max-rate = \"100M\"\nresync-latency-target = 5\n";
    let wanted = Speed {
        min: 64 << 10,
        max: 100 << 20,
        latency_ms: 5,
    };
    assert_eq!(with(all).unwrap(), wanted);
    let narrow = Speed {
        min: 1 << 20,
        max: 1 << 20,
        ..default
    };
    assert_eq!(with("resync-max-rate = \"1M\"\n").unwrap(), narrow);
    assert_eq!(with("resync-max-rate = \"unlimited\"\n").unwrap(), default);
    for (lines, want) in [
        (
            "csums-resync = \"sha1\"\n",
            "csums-resync is \"yes\" or \"no\"",
        ),
        ("resync-max-rate = \"1K\"\n", "resync-max-rate is 4K to 1T"),
        ("resync-min-rate = \"2T\"\n", "resync-min-rate is 4K to 1T"),
        ("resync-min-rate = \"fast\"\n", "resync-min-rate: "),
        (
            "resync-min-rate = \"2M\"\nresync-max-rate = \"1M\"\n",
            "resync-min-rate is above resync-max-rate",
        ),
        (
            "resync-latency-target = 0\n",
            "resync-latency-target is 1 to 60000",
        ),
    ] {
        let error = with(lines).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn resyncs_wait_for_resources_that_are_there_and_not_in_a_circle() {
    let with = |first: &str, second: &str| {
        let more = format!(
            "[[resource]]\nname = \"r7\"\n{second}[[resource.volume]]\nid = 0\nminor = 77\ndisk = \"/dev/vdx\"\n"
        );
        Config::parse(&(GOOD.replace("protocol = \"B\"\n", first) + &more))
    };
    let config = with("resync-after = \"r7\"\n", "").unwrap();
    let after = |name: &str| config.resource(name).unwrap().resync_after.clone();
    assert_eq!((after("r0"), after("r7")), (Some("r7".to_owned()), None));
    let circle = "in a circle";
    for (first, second, want) in [
        ("resync-after = \"r9\"\n", "", "there is no resource 'r9'"),
        ("resync-after = \"r0\"\n", "", circle),
        ("resync-after = \"r7\"\n", "resync-after = \"r0\"\n", circle),
        ("resync-after = \"r7\"\n", "resync-after = \"r7\"\n", circle),
    ] {
        let error = with(first, second).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn what_an_open_does_is_guarded_unless_the_file_says_otherwise() {
    let of = |lines: &str| {
        let text = GOOD.replace("protocol = \"B\"\n", lines);
        Config::parse(&text).map(|config| config.resource("r0").unwrap().auto_promotion)
    };
    let promotion = |mode, timeout_s| AutoPromotion { mode, timeout_s };
    assert_eq!(of("").unwrap(), promotion(AutoPromote::Guarded, 2));
    let lines = "auto-promote = \"no\"\nauto-promote-timeout = 60\n";
    assert_eq!(of(lines).unwrap(), promotion(AutoPromote::No, 60));
    for (line, why) in [
        ("auto-promote = \"on\"\n", "\"guarded\", \"yes\" or \"no\""),
        ("auto-promote-timeout = 0\n", "1 to 60"),
        ("auto-promote-timeout = 61\n", "1 to 60"),
    ] {
        let error = of(line).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn fencing_names_a_policy_and_a_program() {
    let lines = "fencing = \"resource-and-stonith\"\n[resource.handlers]\nfence-peer = \"/usr/lib/fence\"\n";
    let text = GOOD.replace("protocol = \"B\"\n", lines);
    let config = Config::parse(&text).unwrap();
    let resource = config.resource("r0").unwrap();
    let handler = resource.fence_peer.as_ref().unwrap();
    assert_eq!(resource.fencing, Fencing::ResourceAndStonith);
    assert_eq!(
        (handler.program.as_str(), handler.timeout.as_secs()),
        ("/usr/lib/fence", 60)
    );
    let says = |from: &str, to: &str| {
        Config::parse(&text.replace(from, to))
            .unwrap_err()
            .to_string()
    };
    assert!(says("resource-and-stonith", "stonith").contains("fencing is \"dont-care\""));
    assert!(says("fence-peer = \"/usr/lib/fence\"\n", "").contains("needs a program"));
    assert!(says("/usr/lib/fence", "fence").contains("an absolute path"));
}

#[test]
fn policies_for_a_split_brain_are_off_unless_asked_for() {
    let (one_volume, second) = GOOD.split_at(GOOD.rfind("[[resource.volume]]").unwrap());
    let policies = |lines: &str| {
        let text = one_volume.replace("protocol = \"B\"\n", lines);
        let config = Config::parse(&text)?;
        Ok::<_, ConfigError>(config.resource("r0").unwrap().policies)
    };
    assert_eq!(
        policies("split-brain-2 = \"disconnect\"\n").unwrap(),
        Policies::default()
    );
    assert_eq!(
        policies("split-brain-0 = \"discard-least-changes\"\nsplit-brain-1 = \"consensus\"\n")
            .unwrap(),
        Policies {
            none: SplitBrain0::LeastChanges,
            one: SplitBrain1::Consensus
        }
    );
    let refused = [
        (
            "split-brain-0 = \"discard-older-primary\"\n",
            "split-brain-0 is \"disconnect\"",
        ),
        (
            "split-brain-1 = \"violently-as0p\"\n",
            "split-brain-1 is \"disconnect\"",
        ),
        (
            "split-brain-2 = \"call-pri-lost-after-sb\"\n",
            "split-brain-2 is \"disconnect\"",
        ),
        ("split-brain-1 = \"consensus\"\n", "what split-brain-0 says"),
        (
            "quorum = \"majority\"\nsplit-brain-1 = \"discard-secondary\"\n",
            "with quorum only force",
        ),
    ];
    for (lines, wanted) in refused {
        let said = policies(lines).unwrap_err().to_string();
        assert!(said.contains(wanted), "{said}");
    }
    let lines = "split-brain-0 = \"discard-zero-changes\"\n";
    let several = one_volume.replace("protocol = \"B\"\n", lines) + second;
    let said = Config::parse(&several).unwrap_err().to_string();
    assert!(said.contains("volumes are decided one by one"), "{said}");
}

#[test]
fn nonsense_about_quorum_is_explained() {
    let says = |text: &str| Config::parse(text).unwrap_err().to_string();
    let cases = [
        (
            three("quorum = \"most\"\n"),
            "quorum is \"majority\" or \"off\"",
        ),
        (
            three("on-no-quorum = \"panic\"\n"),
            "on-no-quorum is \"suspend-io\" or \"io-error\"",
        ),
        (
            three("quorum = \"off\"\non-no-quorum = \"io-error\"\n"),
            "on-no-quorum means nothing without quorum",
        ),
        (
            three("tie-breakers = [\"delta\"]\n"),
            "there is no node 'delta'",
        ),
        (
            three("tie-breakers = [\"beta\"]\n"),
            "beta is not a node of r0 with a disk",
        ),
        (
            three("nodes = [\"alpha\", \"beta\"]\ntie-breakers = [\"gamma\"]\n"),
            "a tie-breaker is not among the nodes",
        ),
        (
            three("tie-breakers = [\"alpha\", \"beta\", \"gamma\"]\n"),
            "no node with a disk is left",
        ),
        (
            three("nodes = [\"beta\"]\nquorum = \"majority\"\n"),
            "needs two voters at least",
        ),
    ];
    for (text, wanted) in cases {
        let said = says(&text);
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn r14_a_primary_goes_ahead_of_whom_the_file_names() {
    let of = |text: &str| Config::parse(text).map(|it| it.resource("r0").unwrap().congestion);
    assert_eq!(of(GOOD).unwrap(), Congestion::default());
    let with = |lines: &str| of(&GOOD.replace("protocol = \"B\"\n", lines));
    let ahead = |nodes: u32, fill: u64| Congestion {
        pull_ahead: NodeSet(nodes),
        fill,
    };
    let all = with("on-congestion = \"pull-ahead\"\ncongestion-fill = \"1M\"\n").unwrap();
    assert_eq!(all, ahead(0b11, 1 << 20));
    let one = with("peer.beta.on-congestion = \"pull-ahead\"\n").unwrap();
    assert_eq!(one, ahead(0b10, 2 << 20));
    let but =
        with("on-congestion = \"pull-ahead\"\npeer.alpha.on-congestion = \"block\"\n").unwrap();
    assert_eq!(but, ahead(0b10, 2 << 20));
    for (lines, want) in [
        (
            "on-congestion = \"drop\"\n",
            "on-congestion is \"block\" or \"pull-ahead\"",
        ),
        ("congestion-fill = \"1K\"\n", "congestion-fill is 4K to 6M"),
        ("congestion-fill = \"7M\"\n", "congestion-fill is 4K to 6M"),
        (
            "peer.nobody.on-congestion = \"block\"\n",
            "'nobody' is no node with a disk of this resource",
        ),
    ] {
        let error = with(lines).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}
