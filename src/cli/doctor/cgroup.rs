//! The limits of a process's cgroups: memory, tasks and processor time.
//!
//! Both hierarchies are supported: v2 with one tree, and v1 with a tree for each controller. The
//! limits of all ancestors of a cgroup apply too. So all visible levels are read, and the tightest
//! limit is kept. If a level does not have the file of a limit, it has no such limit. Inside a
//! container, the paths may belong to another namespace; paths that do not exist below
//! `/sys/fs/cgroup` are ignored.

use super::parse::{self, Ceiling};
use super::tree::Tree;

/// A cgroup with a limit, and the current use of the limited resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Path of the file with the limit, relative to the examined root directory.
    pub(super) path: String,
    /// The value of the limit.
    pub(super) limit: u64,
    /// The amount of the resource in use.
    pub(super) used: u64,
}

impl Level {
    /// Returns the amount of the resource that is still free.
    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The tightest limit on one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Tightest {
    /// The cgroup in which the smallest amount of the resource is free.
    At(Level),
    /// No cgroup has a limit.
    #[default]
    None,
    /// A limit exists, but its value cannot be parsed.
    Unknown,
}

impl Tightest {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::None, found) | (found, Self::None) => found,
            (Self::At(a), Self::At(b)) => Self::At(if b.room() < a.room() { b } else { a }),
        }
    }
}

/// The limits of a process's cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// The limit on memory, in bytes. Inactive pages of the page cache do not count as used.
    pub(super) memory: Tightest,
    /// The limit on threads and processes.
    pub(super) tasks: Tightest,
    /// The limit on processor time, in thousandths of a processor.
    pub(super) processor: Tightest,
}

/// Reads the limits of the cgroups that are listed in `/proc/PID/cgroup`.
pub(super) fn read(tree: &Tree, membership: &str) -> Groups {
    let mut groups = Groups::default();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        if controllers.is_empty() {
            groups = merge(groups, unified(tree, "sys/fs/cgroup", path));
            // On a host with both hierarchies, v2 is mounted next to the controllers of v1.
            groups = merge(groups, unified(tree, "sys/fs/cgroup/unified", path));
        }
        for controller in controllers.split(',') {
            groups = merge(groups, of_v1(tree, controller, path));
        }
    }
    groups
}

fn merge(a: Groups, b: Groups) -> Groups {
    Groups {
        memory: a.memory.or(b.memory),
        tasks: a.tasks.or(b.tasks),
        processor: a.processor.or(b.processor),
    }
}

fn unified(tree: &Tree, mount: &str, path: &str) -> Groups {
    let mut groups = Groups::default();
    for folder in levels(mount, path) {
        let memory = ["memory.max", "memory.high"]
            .map(|file| memory_v2(tree, &folder, file))
            .into_iter()
            .fold(Tightest::None, Tightest::or);
        let level = Groups {
            memory,
            tasks: level(tree, &folder, "pids.max", parse::ceiling, |folder| {
                tree.text(&format!("{folder}/pids.current"))
                    .and_then(|text| parse::number(&text))
            }),
            processor: level(tree, &folder, "cpu.max", parse::processor_share, |_| {
                Some(0)
            }),
        };
        groups = merge(groups, level);
    }
    groups
}

fn memory_v2(tree: &Tree, folder: &str, file: &str) -> Tightest {
    level(tree, folder, file, parse::ceiling, |folder| {
        working_set(tree, folder, "memory.current", "inactive_file")
    })
}

fn of_v1(tree: &Tree, controller: &str, path: &str) -> Groups {
    let mut groups = Groups::default();
    for folder in levels(&format!("sys/fs/cgroup/{controller}"), path) {
        let found = match controller {
            "memory" => Groups {
                memory: memory_v1(tree, &folder),
                ..Groups::default()
            },
            "pids" => Groups {
                tasks: level(tree, &folder, "pids.max", parse::ceiling, |folder| {
                    tree.text(&format!("{folder}/pids.current"))
                        .and_then(|text| parse::number(&text))
                }),
                ..Groups::default()
            },
            "cpu" => Groups {
                processor: processor_v1(tree, &folder),
                ..Groups::default()
            },
            _ => continue,
        };
        groups = merge(groups, found);
    }
    groups
}

fn memory_v1(tree: &Tree, folder: &str) -> Tightest {
    let file = "memory.limit_in_bytes";
    level(tree, folder, file, parse::v1_memory_limit, |folder| {
        working_set(tree, folder, "memory.usage_in_bytes", "total_inactive_file")
    })
}

/// Reads the v1 limit on processor time. A quota of -1 means no limit.
fn processor_v1(tree: &Tree, folder: &str) -> Tightest {
    let period = tree
        .text(&format!("{folder}/cpu.cfs_period_us"))
        .and_then(|text| parse::number(&text));
    let share = |text: &str| match text.trim() {
        "-1" => Some(Ceiling::Unlimited),
        quota => parse::thousandths(quota.parse().ok()?, period?).map(Ceiling::At),
    };
    level(tree, folder, "cpu.cfs_quota_us", share, |_| Some(0))
}

/// Reads one limit of one cgroup. If the file of the limit does not exist, there is no limit.
fn level(
    tree: &Tree,
    folder: &str,
    file: &str,
    parse: impl Fn(&str) -> Option<Ceiling>,
    used: impl Fn(&str) -> Option<u64>,
) -> Tightest {
    let path = format!("{folder}/{file}");
    if !tree.exists(&path) {
        return Tightest::None;
    }
    match (tree.expect(&path, parse), used(folder)) {
        (Some(Ceiling::Unlimited), _) => Tightest::None,
        (Some(Ceiling::At(limit)), Some(used)) => Tightest::At(Level { path, limit, used }),
        (None, _) | (_, None) => Tightest::Unknown,
    }
}

/// Returns the used bytes without inactive pages of the page cache. The kernel reclaims these pages
/// first.
fn working_set(tree: &Tree, folder: &str, usage: &str, cache: &str) -> Option<u64> {
    let used = parse::number(&tree.text(&format!("{folder}/{usage}"))?)?;
    let cached = tree
        .text(&format!("{folder}/memory.stat"))
        .and_then(|text| parse::entry(&text, cache))
        .unwrap_or(0);
    Some(used.saturating_sub(cached))
}

/// Returns the directories from the root of a hierarchy down to the cgroup. If the path contains
/// `..`, the cgroup is outside the namespace and only the root is returned.
fn levels(mount: &str, path: &str) -> Vec<String> {
    let mut folders = vec![mount.to_owned()];
    if path.split('/').any(|part| part == "..") {
        return folders;
    }
    let mut folder = mount.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        folder.push('/');
        folder.push_str(part);
        folders.push(folder.clone());
    }
    folders
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    fn host(files: &[(&str, &str)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join("sys/fs/cgroup").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn groups(files: &[(&str, &str)], membership: &str) -> Groups {
        let folder = host(files);
        read(&Tree::new(folder.path(), None), membership)
    }

    fn limit(found: &Tightest) -> (u64, u64) {
        match found {
            Tightest::At(level) => (level.limit, level.used),
            Tightest::None | Tightest::Unknown => panic!("{found:?}"),
        }
    }

    #[test]
    fn tightest_ancestor_is_kept_and_inactive_cache_is_not_counted() {
        let found = groups(
            &[
                ("a/memory.max", "1000\n"),
                ("a/memory.current", "900\n"),
                ("a/memory.stat", "anon 1\ninactive_file 300\n"),
                ("a/b/memory.max", "max\n"),
                ("a/b/memory.current", "5\n"),
                ("a/b/memory.high", "800\n"),
                ("a/b/cpu.max", "150000 100000\n"),
                ("a/pids.max", "50\n"),
                ("a/pids.current", "3\n"),
            ],
            "0::/a/b\n",
        );
        assert_eq!(limit(&found.memory), (1000, 600));
        assert_eq!(limit(&found.tasks), (50, 3));
        assert_eq!(limit(&found.processor), (1500, 0));
    }

    #[test]
    fn controllers_of_v1_are_read_in_their_own_trees() {
        let found = groups(
            &[
                ("memory/memory.limit_in_bytes", "9223372036854771712"),
                ("memory/memory.usage_in_bytes", "77"),
                ("memory/d/memory.limit_in_bytes", "4096"),
                ("memory/d/memory.usage_in_bytes", "96"),
                ("pids/d/pids.max", "max"),
                ("pids/d/pids.current", "1"),
                ("cpu/d/cpu.cfs_quota_us", "-1"),
                ("cpu/cpu.cfs_quota_us", "200000"),
                ("cpu/cpu.cfs_period_us", "100000"),
            ],
            "4:memory:/d\n8:pids:/d\n1:cpuacct,cpu:/d\n0::/\n",
        );
        assert_eq!(limit(&found.memory), (4096, 96));
        assert_eq!(found.tasks, Tightest::None);
        assert_eq!(limit(&found.processor), (2000, 0));
    }

    #[test]
    fn malformed_limit_is_unknown_and_not_ignored() {
        let files = [("memory.max", "lots\n"), ("memory.current", "1\n")];
        assert_eq!(groups(&files, "0::/\n").memory, Tightest::Unknown);
        let files = [("memory.max", "10\n"), ("memory.current", "")];
        assert_eq!(groups(&files, "0::/\n").memory, Tightest::Unknown);
    }

    #[test]
    fn strange_memberships_find_nothing() {
        for membership in ["", "\n", "::", "0:", "x", "0::/../../elsewhere\n"] {
            assert_eq!(groups(&[], membership), Groups::default(), "{membership:?}");
        }
    }

    #[test]
    fn path_of_another_namespace_is_read_at_the_root() {
        let files = [("memory.max", "10\n"), ("memory.current", "1\n")];
        let found = groups(&files, "0::/../other\n");
        assert_eq!(limit(&found.memory), (10, 1));
        let found = groups(&files, "0::/kubepods/pod1/c1\n");
        assert_eq!(limit(&found.memory), (10, 1));
    }
}
