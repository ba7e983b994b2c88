//! The environment of the examined process: unit, container or shell. The way to raise a limit
//! depends on the environment.
//!
//! The environment is detected by the files of container runtimes and by the name of the process's
//! cgroup. Only a fanfare unit counts as a unit: a process below `ssh.service` counts as a shell.

use super::tree::Tree;

/// The environment of the examined process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Context {
    /// A Docker container.
    Docker,
    /// A Podman container.
    Podman,
    /// A Kubernetes pod.
    Kubernetes,
    /// A container of another kind.
    Container,
    /// A systemd unit with this name.
    Unit(String),
    /// A shell, outside of units and containers.
    Shell {
        /// Whether systemd runs on the host, so that the server can run in a unit.
        has_systemd: bool,
    },
    /// The environment is not known.
    #[default]
    Unknown,
}

impl Context {
    /// Detects the environment of a process from the host's files and the process's cgroups.
    pub(super) fn of(tree: &Tree, membership: &str) -> Self {
        let is_within = |mark: &str| membership.contains(mark);
        let pod_marks = [
            "var/run/secrets/kubernetes.io/serviceaccount/namespace",
            "run/secrets/kubernetes.io/serviceaccount/namespace",
        ];
        if is_within("kubepods") || pod_marks.iter().any(|path| tree.exists(path)) {
            return Self::Kubernetes;
        }
        if tree.exists("run/.containerenv") || is_within("libpod") {
            return Self::Podman;
        }
        if tree.exists(".dockerenv") || is_within("/docker/") || is_within("/docker-") {
            return Self::Docker;
        }
        let is_container = tree.exists("run/systemd/container");
        if is_container || is_within("/lxc/") || is_within("/lxc.") || is_within("/machine.slice/")
        {
            return Self::Container;
        }
        if let Some(unit) = own_unit(membership) {
            return Self::Unit(unit.to_owned());
        }
        if membership.is_empty() {
            return Self::Unknown;
        }
        let has_systemd = membership.contains(".slice") || membership.contains("init.scope");
        Self::Shell { has_systemd }
    }

    /// Whether the process is in a container, so that settings of the whole kernel must be made on
    /// the host.
    pub(super) fn is_container(&self) -> bool {
        matches!(
            self,
            Self::Docker | Self::Podman | Self::Kubernetes | Self::Container
        )
    }

    /// Returns the name of the environment for the report.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Docker => String::from("Docker container"),
            Self::Podman => String::from("Podman container"),
            Self::Kubernetes => String::from("Kubernetes pod"),
            Self::Container => String::from("container"),
            Self::Unit(name) => format!("unit {name}"),
            Self::Shell { has_systemd: true } => String::from("shell on a host with systemd"),
            Self::Shell { has_systemd: false } => String::from("shell"),
            Self::Unknown => String::from("unknown environment"),
        }
    }
}

/// Returns the name of the fanfare service whose cgroup contains the process.
fn own_unit(membership: &str) -> Option<&str> {
    membership
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .flat_map(|path| path.split('/'))
        .find(|name| name.starts_with("fanfare") && name.ends_with(".service"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn context(marks: &[&str], membership: &str) -> Context {
        let folder = tempfile::tempdir().unwrap();
        for mark in marks {
            let path = folder.path().join(mark);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        Context::of(&Tree::new(folder.path(), None), membership)
    }

    #[test]
    fn containers_are_detected_by_their_marks() {
        assert_eq!(context(&[".dockerenv"], "0::/\n"), Context::Docker);
        assert_eq!(context(&[], "4:memory:/docker/a1\n"), Context::Docker);
        assert_eq!(context(&["run/.containerenv"], "0::/\n"), Context::Podman);
        let lxc = context(&[], "0::/lxc.payload.a/x\n");
        assert_eq!(lxc, Context::Container);
    }

    #[test]
    fn pod_is_detected_also_with_marks_of_its_runtime() {
        let membership = "0::/kubepods.slice/kubepods-pod1.slice/cri-1.scope\n";
        assert_eq!(context(&[".dockerenv"], membership), Context::Kubernetes);
    }

    #[test]
    fn only_a_fanfare_service_is_a_unit() {
        let unit = context(&[], "0::/system.slice/fanfare.service\n");
        assert_eq!(unit, Context::Unit(String::from("fanfare.service")));
        let shell = context(&[], "0::/system.slice/ssh.service\n");
        assert_eq!(shell, Context::Shell { has_systemd: true });
        let bare = context(&[], "0::/\n");
        assert_eq!(bare, Context::Shell { has_systemd: false });
        assert_eq!(context(&[], ""), Context::Unknown);
    }
}
