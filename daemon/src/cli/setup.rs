// SPDX-License-Identifier: GPL-2.0-only

//! `weftsetup`: one verb per row of the module's command table, and `events`.
//!
//! Verbs, arguments and help come from the table, so a command cannot be there and be forgotten here.

use super::events;
use super::failure::Failure;
use super::output::{print, print_json};
use crate::kernel::netlink::client::Client;
use crate::kernel::netlink::record::Record;
use crate::kernel::netlink::request::{Request, Value};
use crate::view::units::bytes_of;
use crate::view::{generation, model, show, status};
use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser, TypedValueParser};
use clap::{value_parser, Arg, ArgAction, ArgMatches};
use weft_uapi::netlink::{Argument, Attribute, AttributeKind, Command, CommandSpec, COMMANDS};
use weft_uapi::units::{NodeId, NodeSet};

const JSON: &str = "json";
const EVENTS: &str = "events";

/// The parser.
pub fn parser() -> clap::Command {
    let verbs = COMMANDS.iter().map(verb);
    clap::Command::new("weftsetup")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Sends one command to the Weft kernel module")
        .long_about(
            "Sends one command to the Weft kernel module, without any configuration file. The everyday command is weft(8), \
             which works from /etc/weft/weft.toml.",
        )
        .after_help("Exit codes: 0 done, 1 refused with reason, 2 wrong usage.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(verbs)
        .subcommand(
            clap::Command::new(EVENTS)
                .about("Show what is, then every change as it happens")
                .arg(json_flag()),
        )
}

fn verb(spec: &CommandSpec) -> clap::Command {
    let verb = clap::Command::new(spec.command.name())
        .about(spec.help.trim_end_matches('.'))
        .args(spec.arguments.iter().map(argument));
    if spec.dump {
        verb.arg(json_flag())
    } else {
        verb
    }
}

fn json_flag() -> Arg {
    Arg::new(JSON)
        .long(JSON)
        .action(ArgAction::SetTrue)
        .help("Print JSON")
}

/// Mandatory arguments are positional in the order of the table, optional ones are options. An optional resource is
/// positional too: it says what the command is about.
fn argument(argument: &Argument) -> Arg {
    let name = argument.attribute.name();
    let arg = Arg::new(name).help(argument.help);
    let arg = if argument.mandatory || argument.attribute == Attribute::Resource {
        arg.required(argument.mandatory)
    } else {
        arg.long(name)
    };
    match argument.attribute.kind() {
        AttributeKind::Flag => arg.action(ArgAction::SetTrue),
        AttributeKind::Choice(choices) => arg.value_parser(choice(choices)).ignore_case(true),
        AttributeKind::Nodes => arg.value_parser(nodes),
        AttributeKind::U32(max) => arg.value_parser(value_parser!(u32).range(..=i64::from(max))),
        AttributeKind::Text(max) => {
            arg.value_parser(NonEmptyStringValueParser::new().try_map(move |text| {
                if text.len() <= max {
                    Ok(text)
                } else {
                    Err(format!("longer than {max} bytes"))
                }
            }))
        }
        AttributeKind::U64 => arg.value_parser(bytes_of),
        // Only in answers; the table has no argument of this kind.
        AttributeKind::Binary => arg.hide(true),
    }
}

fn choice(choices: &'static [(u32, &'static str)]) -> impl TypedValueParser<Value = u32> {
    let names = PossibleValuesParser::new(choices.iter().map(|(_, name)| *name));
    names.try_map(|typed| {
        let is_typed = |&&(_, name): &&(u32, &str)| typed.eq_ignore_ascii_case(name);
        let found = choices.iter().find(is_typed);
        found
            .map(|(number, _)| *number)
            .ok_or("there is no such value")
    })
}

/// A set of nodes: their ids with commas between them, or `none`.
fn nodes(typed: &str) -> Result<u32, String> {
    if typed == show::NO_NODES {
        return Ok(NodeSet::EMPTY.0);
    }
    let mut set = NodeSet::EMPTY;
    for word in typed.split(',') {
        let node = word.parse().ok().and_then(NodeId::new);
        let node = node.ok_or_else(|| format!("'{word}' is no node id, 0 to 31"))?;
        if set.contains(node) {
            return Err(format!("node {node} stands there twice"));
        }
        set = set.with(node);
    }
    Ok(set.0)
}

/// The request that was typed; `None` for `events`.
pub fn request(matches: &ArgMatches) -> Option<(Request, &ArgMatches)> {
    let (name, matches) = matches.subcommand()?;
    let spec = COMMANDS.iter().find(|spec| spec.command.name() == name)?;
    let mut request = Request::new(spec.command);
    for Argument { attribute, .. } in spec.arguments {
        if let Some(value) = value(*attribute, matches) {
            request = request.with(*attribute, value);
        }
    }
    Some((request, matches))
}

fn value(attribute: Attribute, matches: &ArgMatches) -> Option<Value> {
    let name = attribute.name();
    match attribute.kind() {
        AttributeKind::Flag => matches.get_flag(name).then_some(Value::Flag),
        AttributeKind::U32(_) | AttributeKind::Choice(_) | AttributeKind::Nodes => {
            matches.get_one::<u32>(name).copied().map(Value::U32)
        }
        AttributeKind::Text(_) => matches.get_one::<String>(name).cloned().map(Value::Text),
        AttributeKind::U64 => matches.get_one::<u64>(name).copied().map(Value::U64),
        AttributeKind::Binary => None,
    }
}

/// Does what was typed.
///
/// # Errors
/// Why not.
pub fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((request, verb)) = request(matches) else {
        let json = matches
            .subcommand_matches(EVENTS)
            .is_some_and(|verb| verb.get_flag(JSON));
        return events::follow(None, json);
    };
    let mut client = Client::open()?;
    let is_dump = COMMANDS
        .iter()
        .any(|spec| spec.command == request.command && spec.dump);
    if is_dump {
        let records = client
            .dump(&request)
            .map_err(|error| Failure::of_request(&request, &error))?;
        return print_dump(request.command, &records, verb.get_flag(JSON));
    }
    let remark = client
        .perform(&request)
        .map_err(|error| Failure::of_request(&request, &error))?;
    if remark.is_empty() {
        Ok(())
    } else {
        print(&format!("{remark}\n"))
    }
}

fn print_dump(command: Command, records: &[Record], json: bool) -> Result<(), Failure> {
    match (command, json) {
        (Command::Generations, true) => print_json(&generation::all(records)),
        (Command::Generations, false) => print(&generation::text(&generation::all(records))),
        (_, true) => print_json(&model::tree(records)),
        (Command::Show, false) => print(&show::text(&show::requests(&model::tree(records)))),
        (_, false) => print(&status::text(&model::tree(records))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that suits an argument.
    fn example(argument: &Argument) -> &'static str {
        match argument.attribute.kind() {
            AttributeKind::Choice([.., (_, name)]) => name,
            AttributeKind::U32(_) | AttributeKind::U64 | AttributeKind::Nodes => "1",
            _ => "x",
        }
    }

    fn parse(words: &[&str]) -> Result<Request, clap::error::ErrorKind> {
        let words = std::iter::once("weftsetup").chain(words.iter().copied());
        let matches = parser()
            .try_get_matches_from(words)
            .map_err(|error| error.kind())?;
        Ok(request(&matches).unwrap().0)
    }

    #[test]
    fn the_parser_holds_together() {
        parser().debug_assert();
    }

    #[test]
    fn d1_each_row_of_the_command_table_is_a_verb_that_sends_all_its_arguments() {
        for spec in COMMANDS {
            let mut words = vec![spec.command.name().to_owned()];
            for argument in spec.arguments {
                let name = argument.attribute.name();
                let is_flag = argument.attribute.kind() == AttributeKind::Flag;
                if !argument.mandatory && argument.attribute != Attribute::Resource {
                    words.push(format!("--{name}"));
                }
                if !is_flag {
                    words.push(example(argument).to_owned());
                }
            }
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let request = parse(&words).unwrap_or_else(|kind| panic!("{words:?}: {kind:?}"));
            assert_eq!(request.command, spec.command);
            let sent: Vec<_> = request
                .arguments
                .iter()
                .map(|(attribute, _)| *attribute)
                .collect();
            let wanted: Vec<_> = spec
                .arguments
                .iter()
                .map(|argument| argument.attribute)
                .collect();
            assert_eq!(sent, wanted, "{words:?}");
        }
    }

    #[test]
    fn a_verb_without_its_mandatory_arguments_is_wrong_usage() {
        for spec in COMMANDS
            .iter()
            .filter(|spec| spec.arguments.iter().any(|a| a.mandatory))
        {
            let kind = parse(&[spec.command.name()]).unwrap_err();
            assert_eq!(
                kind,
                clap::error::ErrorKind::MissingRequiredArgument,
                "{}",
                spec.command
            );
        }
    }

    #[test]
    fn numbers_past_their_bounds_and_names_too_long_are_wrong_usage() {
        use clap::error::ErrorKind::{InvalidValue, ValueValidation};
        assert_eq!(parse(&["new-peer", "r0", "32"]), Err(ValueValidation));
        assert_eq!(
            parse(&["new-peer", "r0", "-1"]),
            Err(clap::error::ErrorKind::UnknownArgument)
        );
        assert_eq!(
            parse(&["new-device", "r0", "255", "0"]),
            Err(ValueValidation)
        );
        assert_eq!(parse(&["down", &"x".repeat(64)]), Err(ValueValidation));
        assert_eq!(parse(&["down", ""]), Err(InvalidValue));
        assert_eq!(
            parse(&["options", "r0", "--protocol", "D"]),
            Err(InvalidValue)
        );
    }

    #[test]
    fn a_set_of_nodes_is_typed_as_ids_with_commas() {
        let parsed = |typed| parse(&["options", "r0", "--voters", typed]);
        let wanted =
            |set| Ok(Request::about(Command::Options, "r0").number(Attribute::Voters, set));
        assert_eq!(parsed("0,2,31"), wanted(0x8000_0005));
        assert_eq!(parsed("none"), wanted(0));
        for nonsense in ["", "0,", "32", "0,0", "x", "-1", "0 1"] {
            assert!(parsed(nonsense).is_err(), "{nonsense}");
        }
    }
}
