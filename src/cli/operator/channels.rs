//! `fanfare channels`: lists channels.

use std::io::Write;

use super::super::Failure;
use super::super::units::{grouped, milliseconds, short_bytes};
use super::args::ChannelsArgs;
use super::client::Client;
use super::text::{Align, Table, join};
use super::{print, print_json, warn_of_silent_workers};
use fanfare::operator::answer::{ChannelRow, ChannelsAnswer};
use fanfare::operator::request::{ChannelsRequest, Request};

const TITLES: [(&str, Align); 7] = [
    ("SUBSCRIBERS", Align::Right),
    ("PUBLICATIONS", Align::Right),
    ("BYTES", Align::Right),
    ("RECENT", Align::Right),
    ("LAST", Align::Right),
    ("CHANNEL", Align::Left),
    ("LAST ID", Align::Left),
];

/// Prints the list.
///
/// # Errors
/// Returns an error if the server does not answer, or refuses the request.
pub(in crate::cli) fn run(args: &ChannelsArgs, out: &mut dyn Write) -> Result<(), Failure> {
    let request = Request::Channels(ChannelsRequest {
        channel: args.channel.clone(),
        sort: args.sort,
        limit: args.limit,
    });
    let answer = Client::new(&args.socket)?.ask::<ChannelsAnswer>(&request)?;
    if args.json {
        print_json(&answer.line, out)?;
    } else {
        print(&list(&answer.content), out)?;
    }
    let silent = &answer.content.silent_workers;
    warn_of_silent_workers(silent, "their subscribers are missing from the list");
    Ok(())
}

fn list(answer: &ChannelsAnswer) -> String {
    let ChannelsAnswer {
        channels,
        matched,
        open,
        silent_workers: _,
    } = answer;
    if *matched == 0 {
        return format!("no channel matches, {} in all\n", grouped(*open));
    }
    let mut table = Table::new(&TITLES);
    for channel in channels {
        table.push(cells(channel));
    }
    let shown = grouped(channels.len() as u64);
    let (matched, open) = (grouped(*matched), grouped(*open));
    join(&table.lines()) + &format!("{shown} of {matched} matching, {open} in all\n")
}

fn cells(channel: &ChannelRow) -> [String; 7] {
    let absent = || String::from("-");
    [
        grouped(channel.subscribers),
        grouped(channel.publications),
        short_bytes(channel.bytes),
        grouped(channel.recent),
        channel.last_age_ms.map_or_else(absent, milliseconds),
        channel.channel.clone(),
        channel.last_id.clone().unwrap_or_else(absent),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_has_a_row_for_each_channel_and_the_numbers() {
        let busy = ChannelRow {
            channel: String::from("prices:eur"),
            subscribers: 10_000,
            publications: 12,
            bytes: 2_048,
            recent: 3,
            last_id: Some(String::from("4f-1a2")),
            last_age_ms: Some(1_500),
        };
        let unused = ChannelRow {
            channel: String::from("news"),
            ..ChannelRow::default()
        };
        let answer = ChannelsAnswer {
            channels: vec![busy, unused],
            matched: 2,
            open: 1_234,
            silent_workers: Vec::new(),
        };
        assert_eq!(
            list(&answer),
            "SUBSCRIBERS  PUBLICATIONS    BYTES  RECENT   LAST  CHANNEL     LAST ID\n     \
             10,000            12  2.0 KiB       3  1.5 s  prices:eur  4f-1a2\n          \
             0             0        0       0      -  news        -\n\
             2 of 2 matching, 1,234 in all\n"
        );
        let none = ChannelsAnswer::default();
        assert_eq!(list(&none), "no channel matches, 0 in all\n");
    }
}
