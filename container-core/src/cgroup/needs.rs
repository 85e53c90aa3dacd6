//! Which controllers a set of limits needs.

use oci_spec::runtime::LinuxResources;

use super::devices::Rule;
use super::{Controller, Result};

/// A controller that a cgroup should have, and the member of the specification that cannot do without.
pub(super) struct Need {
    pub(super) controller: Controller,
    pub(super) field: Option<&'static str>,
}

/// The controllers that a set of limits needs.
pub(super) fn needed(resources: &LinuxResources, devices: &[Rule]) -> Result<Vec<Need>> {
    // Memory is always accounted: it tells of OOM kills, and of what an instance costs.
    let limited = resources
        .memory()
        .is_some_and(|memory| memory.limit().is_some() || memory.swap().is_some());
    let mut needs = vec![Need {
        controller: Controller::Memory,
        field: limited.then_some("linux.resources.memory"),
    }];
    if let Some(cpu) = resources.cpu() {
        let time = cpu.shares().is_some()
            || cpu.quota().is_some()
            || cpu.period().is_some()
            || cpu.burst().is_some()
            || cpu.idle().is_some()
            || cpu.realtime_runtime().is_some()
            || cpu.realtime_period().is_some();
        if time {
            needs.push(Need {
                controller: Controller::Cpu,
                field: Some("linux.resources.cpu"),
            });
        }
        if cpu.cpus().is_some() || cpu.mems().is_some() {
            needs.push(Need {
                controller: Controller::Cpuset,
                field: Some("linux.resources.cpu.cpus"),
            });
        }
    }
    if resources.pids().is_some() {
        needs.push(Need {
            controller: Controller::Pids,
            field: Some("linux.resources.pids"),
        });
    }
    let network = resources.network().as_ref();
    let others = [
        (
            Controller::Blkio,
            "linux.resources.blockIO",
            resources
                .block_io()
                .as_ref()
                .is_some_and(|block| *block != Default::default()),
        ),
        (
            Controller::Hugetlb,
            "linux.resources.hugepageLimits",
            resources
                .hugepage_limits()
                .as_ref()
                .is_some_and(|limits| !limits.is_empty()),
        ),
        (
            Controller::NetCls,
            "linux.resources.network.classID",
            network.is_some_and(|network| network.class_id().is_some()),
        ),
        (
            Controller::NetPrio,
            "linux.resources.network.priorities",
            network.is_some_and(|network| {
                network
                    .priorities()
                    .as_ref()
                    .is_some_and(|priorities| !priorities.is_empty())
            }),
        ),
        (
            Controller::Rdma,
            "linux.resources.rdma",
            resources
                .rdma()
                .as_ref()
                .is_some_and(|rdma| !rdma.is_empty()),
        ),
    ];
    needs.extend(
        others
            .into_iter()
            .filter(|(.., asked)| *asked)
            .map(|(controller, field, _)| Need {
                controller,
                field: Some(field),
            }),
    );
    if !devices.is_empty() {
        needs.push(Need {
            controller: Controller::Devices,
            field: Some("linux.resources.devices"),
        });
    }
    Ok(needs)
}
