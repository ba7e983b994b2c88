//! Tests of capacities and remedies. They check that the lowest limit decides the result, that
//! raising a limit never lowers the result, and that each remedy raises its limit enough.

use proptest::prelude::*;

use super::capacity::{self, Allows, Limit, LimitId, Plan};
use super::cgroup::{Level, Tightest};
use super::context::Context;
use super::facts::{Conntrack, Facts, Files, Reading};
use super::parse::Ceiling;
use super::remedies::{self, Remedy};
use super::report::Report;
use fanfare::config::Config;

/// The number of limits whose values are chosen at random.
const SCALED: usize = 11;

fn plan(workers: u32) -> Plan {
    Plan::new(&Config::default(), workers, 1)
}

/// Returns the facts of a host whose limits have these values. The order of the values is that of
/// the names in the first statement.
fn host(numbers: [u64; SCALED]) -> Facts {
    let [
        nofile,
        nr_open,
        file_max,
        memory,
        group,
        commit,
        tcp,
        tracked,
        watches,
        tasks,
        threads,
    ] = numbers;
    let level = |path: &str, limit| {
        Tightest::At(Level {
            path: path.to_owned(),
            limit,
            used: 5,
        })
    };
    let mut facts = Facts {
        descriptors_hard: Some(Ceiling::At(nofile)),
        user_threads: Some(Ceiling::At(threads)),
        nr_open: Some(nr_open),
        files: Some(Files {
            max: file_max,
            open: 100,
        }),
        tcp_mem_pages: Some([0, tcp, tcp]),
        tcp_mem_used_pages: Some(3),
        page_bytes: 4096,
        memory_available_bytes: Some(memory),
        commit_room_bytes: Some(Ceiling::At(commit)),
        are_groups_known: true,
        epoll_watches: Some(watches),
        threads_max: Some(threads),
        conntrack: Some(Some(Conntrack {
            max: tracked,
            count: 7,
        })),
        send_buffer_bytes_max: Some(212_992),
        ..Facts::default()
    };
    facts.groups.memory = level("sys/fs/cgroup/a.service/memory.max", group);
    facts.groups.tasks = level("sys/fs/cgroup/a.service/pids.max", tasks);
    facts
}

fn bound(facts: &Facts, plan: &Plan) -> u64 {
    let limits = capacity::limits(facts, plan);
    capacity::binding(&limits).map_or(u64::MAX, |(_, conns)| conns)
}

fn allows(facts: &Facts, plan: &Plan, id: LimitId) -> Allows {
    let limits = capacity::limits(facts, plan);
    limits.iter().find(|limit| limit.id == id).unwrap().allows
}

fn numbers() -> impl Strategy<Value = [u64; SCALED]> {
    let number = prop_oneof![0..100_u64, 0..10_000_000_u64, 0..u64::MAX];
    proptest::array::uniform11(number)
}

#[test]
fn each_worker_has_a_table_with_room_for_an_uneven_distribution() {
    let mut facts = host([u64::MAX; SCALED]);
    facts.descriptors_hard = Some(Ceiling::At(20_000));
    let nofile = |workers| allows(&facts, &plan(workers), LimitId::Descriptors);
    assert_eq!(nofile(1), Allows::Conns(19_935));
    assert_eq!(nofile(2), Allows::Conns(36_243));
    assert_eq!(nofile(55), Allows::Conns(994_050));
    assert_eq!(nofile(56), Allows::Conns(1_012_072));
    assert_eq!(remedies::enough_workers(&facts, 1_000_000), Some(56));
    assert_eq!(remedies::enough_workers(&facts, 19_935), Some(1));
    assert_eq!(remedies::enough_workers(&facts, 100_000_000), None);
}

#[test]
fn unknown_limits_bind_nothing_and_fit_no_target() {
    let facts = Facts::default();
    let limits = capacity::limits(&facts, &plan(2));
    assert_eq!(capacity::binding(&limits), None);
    let reading = Reading {
        facts,
        notes: Vec::new(),
    };
    assert!(!Report::new(&reading, &plan(2), Some(1)).fits());
    assert!(Report::new(&reading, &plan(2), None).fits());
}

#[test]
fn idle_conntrack_table_and_no_stalled_conns_bind_nothing() {
    let mut facts = host([1000; SCALED]);
    facts.conntrack = Some(Some(Conntrack { max: 9, count: 0 }));
    let any = Allows::AnyNumber;
    assert_eq!(allows(&facts, &plan(1), LimitId::Conntrack), any);
    let idle = Plan::new(&Config::default(), 1, 0);
    assert_eq!(allows(&facts, &idle, LimitId::TcpMem), any);
}

#[test]
fn too_few_threads_for_the_workers_allow_no_conns() {
    let mut facts = host([1_000_000_000; SCALED]);
    facts.threads_max = Some(24);
    let id = LimitId::ThreadsMax;
    assert_eq!(allows(&facts, &plan(15), id), Allows::AnyNumber);
    assert_eq!(allows(&facts, &plan(16), id), Allows::Conns(0));
}

#[test]
fn key_of_the_configuration_is_a_limit_too() {
    let mut config = Config::default();
    config.limits.conns = 500;
    let facts = host([u64::MAX / 4; SCALED]);
    let with = |workers| Plan::new(&config, workers, 1);
    assert_eq!(bound(&facts, &with(1)), 500);
    assert_eq!(bound(&facts, &with(4)), 454);
    let lifts = remedies::remedies(LimitId::ConnsKey, &facts, &with(4), 500);
    assert_eq!(lifts.first().unwrap().line, "conns = 550");
}

fn first_line(facts: &Facts, id: LimitId, conns: u64) -> String {
    let ways = remedies::remedies(id, facts, &plan(2), conns);
    let Remedy { place, line, .. } = ways.first().unwrap();
    format!("{place}: {line}")
}

#[test]
fn remedy_is_for_the_environment_of_the_server() {
    let mut facts = host([1000; SCALED]);
    facts.nr_open = Some(1_048_576);
    let unit = Context::Unit(String::from("fanfare.service"));
    let shell = Context::Shell { has_systemd: true };
    let cases = [
        (unit, "fanfare.service, [Service]: LimitNOFILE=550912"),
        (Context::Docker, "docker run: --ulimit nofile=550912:550912"),
        (Context::Podman, "podman run: --ulimit nofile=550912:550912"),
        (
            shell,
            "as root, in the shell that starts it: ulimit -Hn 550912 && ulimit -Sn 550912",
        ),
    ];
    for (context, line) in cases {
        facts.context = context;
        assert_eq!(first_line(&facts, LimitId::Descriptors, 1_000_000), line);
    }
}

#[test]
fn hard_limit_above_nr_open_needs_both_lines() {
    let mut facts = host([1000; SCALED]);
    facts.nr_open = Some(1_048_576);
    facts.context = Context::Docker;
    let line = "on the host, as root: sysctl -w fs.nr_open=1100800";
    assert_eq!(first_line(&facts, LimitId::Descriptors, 2_000_000), line);
}

#[test]
fn cgroup_outside_systemd_is_changed_through_its_file() {
    let mut facts = host([1000; SCALED]);
    facts.context = Context::Shell { has_systemd: false };
    let path = String::from("sys/fs/cgroup/memory/box/memory.limit_in_bytes");
    facts.groups.memory = Tightest::At(Level {
        path,
        limit: 1000,
        used: 0,
    });
    let line = first_line(&facts, LimitId::GroupMemory, 1);
    let start = "as root: echo 169874974 > /sys/fs/cgroup/memory/box/memory.limit_in_bytes";
    assert_eq!(line, start);
}

/// Returns the number at the end of a remedy's line.
fn amount(line: &str) -> u64 {
    let number = line.rsplit(['=', ':', ' ']).next().unwrap();
    number.trim_end_matches('M').parse().unwrap()
}

/// Returns the facts of the host after the first remedy for a limit was applied.
fn raised(facts: &Facts, id: LimitId, plan: &Plan, conns: u64) -> Facts {
    const MIB: u64 = 1 << 20;
    let ways = remedies::remedies(id, facts, plan, conns);
    let line = &ways.first().unwrap().line;
    let mut facts = facts.clone();
    let group = |found: &mut Tightest, limit: u64| {
        if let Tightest::At(level) = found {
            level.limit = limit;
        }
    };
    match id {
        LimitId::ConnsKey | LimitId::Commit => {}
        LimitId::Descriptors => {
            let unit = ways.iter().find(|way| way.line.contains("NOFILE")).unwrap();
            facts.descriptors_hard = Some(Ceiling::At(amount(&unit.line)));
        }
        LimitId::NrOpen => facts.nr_open = Some(amount(line)),
        LimitId::FileMax => facts.files.as_mut().unwrap().max = amount(line),
        LimitId::Memory => {
            let more: u64 = line.split(' ').next().unwrap().parse().unwrap();
            *facts.memory_available_bytes.as_mut().unwrap() += more * MIB;
        }
        LimitId::GroupMemory => group(&mut facts.groups.memory, amount(line) * MIB),
        LimitId::TcpMem => {
            let pages = line.split(['"', ' ']).filter_map(|word| word.parse().ok());
            facts.tcp_mem_pages = pages.collect::<Vec<u64>>().try_into().ok();
        }
        LimitId::Conntrack => {
            let count = 7;
            let max = amount(line);
            facts.conntrack = Some(Some(Conntrack { max, count }));
        }
        LimitId::EpollWatches => facts.epoll_watches = Some(amount(line)),
        LimitId::GroupTasks => group(&mut facts.groups.tasks, amount(line)),
        LimitId::UserThreads => facts.user_threads = Some(Ceiling::At(amount(line))),
        LimitId::ThreadsMax => facts.threads_max = Some(amount(line)),
    }
    facts
}

proptest! {
    #[test]
    fn binding_limit_is_the_smallest(numbers in numbers(), workers in 1..100_u32) {
        let limits = capacity::limits(&host(numbers), &plan(workers));
        let (id, least) = capacity::binding(&limits).unwrap();
        let is_least = |limit: &Limit| match limit.allows {
            Allows::Conns(conns) => conns >= least,
            Allows::AnyNumber | Allows::Unknown => true,
        };
        prop_assert!(limits.iter().all(is_least));
        prop_assert_eq!(allows(&host(numbers), &plan(workers), id), Allows::Conns(least));
    }

    #[test]
    fn raising_one_limit_never_lowers_what_fits(
        numbers in numbers(),
        which in 0..SCALED,
        more in 0..u64::MAX,
        workers in 1..100_u32,
    ) {
        let mut raised = numbers;
        raised[which] = raised[which].saturating_add(more);
        let (before, after) = (host(numbers), host(raised));
        prop_assert!(bound(&after, &plan(workers)) >= bound(&before, &plan(workers)));
    }

    #[test]
    fn limit_that_is_not_known_never_lowers_what_fits(numbers in numbers()) {
        let known = host(numbers);
        let unknown = Facts {
            memory_available_bytes: None,
            nr_open: None,
            tcp_mem_pages: None,
            ..known.clone()
        };
        prop_assert!(bound(&unknown, &plan(2)) >= bound(&known, &plan(2)));
    }

    #[test]
    fn remedy_for_every_limit_is_enough(
        numbers in proptest::array::uniform11(0..100_000_000_u64),
        conns in 1..50_000_000_u64,
        workers in 1..100_u32,
    ) {
        let (mut facts, plan) = (host(numbers), plan(workers));
        facts.context = Context::Unit(String::from("fanfare.service"));
        for limit in capacity::limits(&facts, &plan) {
            if !limit.allows.refuses(conns) || limit.id == LimitId::Commit {
                continue;
            }
            let after = raised(&facts, limit.id, &plan, conns);
            let still = allows(&after, &plan, limit.id);
            prop_assert!(!still.refuses(conns), "{:?}: {:?}", limit.id, still);
        }
    }

    #[test]
    fn enough_workers_are_enough_and_one_fewer_are_not(
        table in 200..2_000_000_u64,
        conns in 1..10_000_000_u64,
    ) {
        let facts = Facts {
            descriptors_hard: Some(Ceiling::At(table)),
            ..Facts::default()
        };
        if let Some(workers) = remedies::enough_workers(&facts, conns) {
            prop_assert!(bound(&facts, &plan(workers)) >= conns);
            // With two or more workers, each table needs extra room for an uneven distribution. So
            // the step from one to two workers is not checked.
            if workers > 2 {
                prop_assert!(bound(&facts, &plan(workers - 1)) < conns);
            }
        }
    }

    #[test]
    fn any_report_can_be_written(numbers in numbers(), target: Option<u32>, stalled in 0..=100_u8) {
        let reading = Reading { facts: host(numbers), notes: Vec::new() };
        let plan = Plan::new(&Config::default(), 3, stalled);
        let report = Report::new(&reading, &plan, target.map(u64::from));
        let mut text = Vec::new();
        report.write(&mut text).unwrap();
        prop_assert!(text.ends_with(b"\n"));
        prop_assert!(serde_json::to_value(&report).is_ok());
    }
}
