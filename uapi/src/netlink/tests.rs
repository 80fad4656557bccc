// SPDX-License-Identifier: GPL-2.0-only

use super::*;

#[test]
fn each_command_has_at_most_one_row() {
    for (i, spec) in COMMANDS.iter().enumerate() {
        assert!(COMMANDS[i + 1..]
            .iter()
            .all(|other| other.command != spec.command));
    }
}

#[test]
fn whoever_names_a_disk_needs_more_than_the_right_to_configure_networks() {
    let names_disk = |spec: &&CommandSpec| {
        let mut arguments = spec.arguments.iter();
        arguments.any(|a| matches!(a.attribute, Attribute::Disk | Attribute::Meta))
    };
    for spec in COMMANDS.iter().filter(names_disk) {
        assert!(spec.mutates && spec.opens_disks, "{}", spec.command);
    }
}

#[test]
fn mandatory_arguments_come_first() {
    for spec in COMMANDS {
        assert!(spec
            .arguments
            .windows(2)
            .all(|pair| pair[0].mandatory || !pair[1].mandatory));
    }
}

#[test]
fn a_flag_is_never_mandatory() {
    let flags = |a: &&Argument| a.attribute.kind() == AttributeKind::Flag;
    assert!(COMMANDS
        .iter()
        .flat_map(|s| s.arguments)
        .filter(flags)
        .all(|a| !a.mandatory));
}
