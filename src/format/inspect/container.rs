//! `container inspect`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::format::time;

/// What is known of an instance. What a field's default says is what docker says where nothing was asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct ContainerFacts {
    /// The whole identifier.
    pub(crate) id: String,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    /// The program.
    pub(crate) path: String,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Where it is in its life.
    pub(crate) state: StateFacts,
    /// `sha256:…`.
    pub(crate) image_id: String,
    /// The image as the user named it.
    pub(crate) image: String,
    /// Without a slash.
    pub(crate) name: String,
    /// How often the restart policy has started it again.
    pub(crate) restart_count: u32,
    /// Files on the host that appear under /etc, empty where there are none.
    pub(crate) resolv_conf: String,
    /// See `resolv_conf`.
    pub(crate) hostname_path: String,
    /// See `resolv_conf`.
    pub(crate) hosts: String,
    /// The log file.
    pub(crate) log_path: String,
    /// Directories of the writable layer: LowerDir, MergedDir, UpperDir, WorkDir; or what a VM has.
    pub(crate) layers: BTreeMap<String, String>,
    /// What `exec` runs in it at the moment.
    pub(crate) execs: Vec<String>,
    /// What was asked of the host.
    pub(crate) host: HostFacts,
    /// Every mount below the root.
    pub(crate) mounts: Vec<MountFacts>,
    /// Bytes in the writable layer, and in all layers, where they were asked for.
    pub(crate) sizes: Option<(u64, u64)>,
    /// Host name inside.
    pub(crate) hostname: String,
    /// User and group.
    pub(crate) user: String,
    /// `-a stdin`, `-a stdout`, `-a stderr`, or what `-d` and `-i` make of them.
    pub(crate) attach: [bool; 3],
    /// Ports such as `80/tcp`.
    pub(crate) exposed_ports: Vec<String>,
    /// `-t`.
    pub(crate) tty: bool,
    /// `-i`.
    pub(crate) open_stdin: bool,
    /// `-i` without `-d`.
    pub(crate) stdin_once: bool,
    /// `KEY=VALUE`, the image's and the user's.
    pub(crate) env: Vec<String>,
    /// The command, as image or user gave it.
    pub(crate) cmd: Option<Vec<String>>,
    /// The entry point, as image or user gave it.
    pub(crate) entrypoint: Option<Vec<String>>,
    /// Paths of anonymous volumes, the image's and `-v /path`.
    pub(crate) volumes: Vec<String>,
    /// Empty for /.
    pub(crate) working_dir: String,
    /// The image's and the user's.
    pub(crate) labels: BTreeMap<String, String>,
    /// Only where it was set.
    pub(crate) stop_signal: Option<String>,
    /// Only where it was set, in seconds.
    pub(crate) stop_timeout: Option<i64>,
    /// docker's `Healthcheck` object, if there is a health check.
    pub(crate) healthcheck: Option<Value>,
    /// docker's `NetworkSettings.Networks` object: the name of each network to its endpoint.
    pub(crate) networks: Value,
    /// docker's `NetworkSettings.Ports` object: `80/tcp` to a list of HostIp and HostPort, or null.
    pub(crate) ports: Value,
    /// What docker does not have: Backend, Accelerator, Substrate and the like.
    pub(crate) plimsoll: Value,
}

/// Where an instance is in its life.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateFacts {
    /// created, running, paused, restarting, removing, exited or dead.
    pub(crate) status: String,
    /// On the host, 0 where it does not run.
    pub(crate) pid: u32,
    /// Of the last end.
    pub(crate) exit_code: i32,
    /// The kernel killed it for want of memory.
    pub(crate) oom_killed: bool,
    /// Why it could not be started.
    pub(crate) error: String,
    /// Nanoseconds since 1970.
    pub(crate) started: Option<u64>,
    /// Nanoseconds since 1970.
    pub(crate) finished: Option<u64>,
    /// docker's `Health` object, if there is a health check.
    pub(crate) health: Option<Value>,
}

/// What was asked of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostFacts {
    /// `-v` as given: `/host:/path:ro`, `name:/path`.
    pub(crate) binds: Vec<String>,
    /// `--cidfile`.
    pub(crate) cidfile: String,
    /// `--log-driver`; `json-file` where empty.
    pub(crate) log_driver: String,
    /// `--log-opt`.
    pub(crate) log_options: BTreeMap<String, String>,
    /// `none`, `host`, `bridge`, a network's name.
    pub(crate) network_mode: String,
    /// docker's `PortBindings` object.
    pub(crate) port_bindings: Value,
    /// `no`, `on-failure`, `always` or `unless-stopped`; `no` where empty.
    pub(crate) restart_policy: String,
    /// `on-failure:3`.
    pub(crate) restart_limit: u32,
    /// `--rm`.
    pub(crate) auto_remove: bool,
    /// `--volumes-from`.
    pub(crate) volumes_from: Vec<String>,
    /// `--cap-add`.
    pub(crate) cap_add: Vec<String>,
    /// `--cap-drop`.
    pub(crate) cap_drop: Vec<String>,
    /// `--dns`.
    pub(crate) dns: Vec<String>,
    /// `--add-host`.
    pub(crate) extra_hosts: Vec<String>,
    /// `--group-add`.
    pub(crate) group_add: Vec<String>,
    /// `--link`, as docker keeps them: `/target:/name/alias`.
    pub(crate) links: Vec<String>,
    /// `--oom-score-adj`.
    pub(crate) oom_score_adj: i32,
    /// `--pid`.
    pub(crate) pid_mode: String,
    /// `--privileged`.
    pub(crate) privileged: bool,
    /// `-P`.
    pub(crate) publish_all: bool,
    /// `--read-only`.
    pub(crate) read_only: bool,
    /// `--security-opt`.
    pub(crate) security_opt: Vec<String>,
    /// `--tmpfs`: path to options.
    pub(crate) tmpfs: BTreeMap<String, String>,
    /// `--sysctl`.
    pub(crate) sysctls: BTreeMap<String, String>,
    /// `--shm-size` in bytes; docker's 64 MiB where 0.
    pub(crate) shm_size: u64,
    /// `-m` in bytes.
    pub(crate) memory: u64,
    /// `--memory-swap` in bytes; -1 for no limit.
    pub(crate) memory_swap: i64,
    /// `--memory-reservation` in bytes.
    pub(crate) memory_reservation: u64,
    /// `--cpus` in thousand-millionths.
    pub(crate) nano_cpus: u64,
    /// `--cpu-shares`.
    pub(crate) cpu_shares: u64,
    /// `--cpuset-cpus`.
    pub(crate) cpuset_cpus: String,
    /// `--cpuset-mems`.
    pub(crate) cpuset_mems: String,
    /// `--pids-limit`.
    pub(crate) pids_limit: Option<i64>,
    /// `--ulimit`: name, soft, hard.
    pub(crate) ulimits: Vec<(String, i64, i64)>,
    /// `--device`: on the host, inside, permissions.
    pub(crate) devices: Vec<(String, String, String)>,
    /// `--init`, where it was given.
    pub(crate) init: Option<bool>,
    /// docker's objects for `--mount`.
    pub(crate) mounts: Vec<Value>,
}

/// A mount below the root.
#[derive(Debug, Clone, Default)]
pub(crate) struct MountFacts {
    /// bind, volume or tmpfs.
    pub(crate) kind: String,
    /// A volume's name.
    pub(crate) name: Option<String>,
    /// On the host.
    pub(crate) source: String,
    /// Inside.
    pub(crate) destination: String,
    /// The options as given, such as `ro` or `z`.
    pub(crate) mode: String,
    /// Not read-only.
    pub(crate) writable: bool,
    /// A bind's propagation, `rprivate` by default.
    pub(crate) propagation: String,
}

/// 64 MiB: docker's size of /dev/shm.
const SHM_SIZE: u64 = 64 << 20;

/// docker's object for a container, with a member `Plimsoll` of our own.
pub(crate) fn inspect_container(facts: &ContainerFacts) -> Value {
    let mut value = json!({
        "Id": facts.id,
        "Created": time::rfc3339(facts.created),
        "Path": facts.path,
        "Args": facts.args,
        "State": state(&facts.state),
        "Image": facts.image_id,
        "ResolvConfPath": facts.resolv_conf,
        "HostnamePath": facts.hostname_path,
        "HostsPath": facts.hosts,
        "LogPath": facts.log_path,
        "Name": format!("/{}", facts.name),
        "RestartCount": facts.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": or_null(&facts.execs),
        "HostConfig": host_config(&facts.host),
        "GraphDriver": {"Data": facts.layers, "Name": "overlay2"},
        "Mounts": facts.mounts.iter().map(mount).collect::<Vec<_>>(),
        "Config": config(facts),
        "NetworkSettings": network_settings(facts),
        "Plimsoll": facts.plimsoll,
    });
    if let (Some(members), Some((own, all))) = (value.as_object_mut(), facts.sizes) {
        members.insert("SizeRw".into(), own.into());
        members.insert("SizeRootFs".into(), all.into());
    }
    value
}

/// An empty slice is nil in docker's configuration, and null in its JSON.
fn or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn set(members: &mut Value, name: &str, value: Value) {
    if let Some(members) = members.as_object_mut() {
        members.insert(name.into(), value);
    }
}

fn state(facts: &StateFacts) -> Value {
    let moment = |moment: Option<u64>| moment.map_or_else(|| time::NEVER.to_owned(), time::rfc3339);
    let status = facts.status.as_str();
    let mut value = json!({
        "Status": status,
        // A paused instance runs, and one that is to be restarted counts as running too.
        "Running": matches!(status, "running" | "paused" | "restarting"),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": facts.oom_killed,
        "Dead": status == "dead",
        "Pid": facts.pid,
        "ExitCode": facts.exit_code,
        "Error": facts.error,
        "StartedAt": moment(facts.started),
        "FinishedAt": moment(facts.finished),
    });
    if let Some(health) = &facts.health {
        set(&mut value, "Health", health.clone());
    }
    value
}

fn host_config(facts: &HostFacts) -> Value {
    let or = |text: &str, default: &str| {
        if text.is_empty() {
            default.to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut value = json!({
        "Binds": or_null(&facts.binds),
        "ContainerIDFile": facts.cidfile,
        "LogConfig": {"Type": or(&facts.log_driver, "json-file"), "Config": facts.log_options},
        "NetworkMode": or(&facts.network_mode, "none"),
        "PortBindings": object_or_empty(&facts.port_bindings),
        "RestartPolicy": {
            "Name": or(&facts.restart_policy, "no"),
            "MaximumRetryCount": facts.restart_limit,
        },
        "AutoRemove": facts.auto_remove,
        "VolumesFrom": or_null(&facts.volumes_from),
        "CapAdd": or_null(&facts.cap_add),
        "CapDrop": or_null(&facts.cap_drop),
        "Dns": facts.dns,
        "ExtraHosts": or_null(&facts.extra_hosts),
        "GroupAdd": or_null(&facts.group_add),
        "Links": or_null(&facts.links),
        "OomScoreAdj": facts.oom_score_adj,
        "PidMode": facts.pid_mode,
        "Privileged": facts.privileged,
        "PublishAllPorts": facts.publish_all,
        "ReadonlyRootfs": facts.read_only,
        "SecurityOpt": or_null(&facts.security_opt),
        "ShmSize": if facts.shm_size == 0 { SHM_SIZE } else { facts.shm_size },
        "CpuShares": facts.cpu_shares,
        "Memory": facts.memory,
        "NanoCpus": facts.nano_cpus,
        "CpusetCpus": facts.cpuset_cpus,
        "CpusetMems": facts.cpuset_mems,
        "Devices": devices(&facts.devices),
        "MemoryReservation": facts.memory_reservation,
        "MemorySwap": facts.memory_swap,
        "PidsLimit": facts.pids_limit,
        "Ulimits": ulimits(&facts.ulimits),
    });
    for (name, default) in fixed() {
        set(&mut value, name, default);
    }
    // docker leaves these out where they were not given.
    if !facts.tmpfs.is_empty() {
        set(&mut value, "Tmpfs", json!(facts.tmpfs));
    }
    if !facts.sysctls.is_empty() {
        set(&mut value, "Sysctls", json!(facts.sysctls));
    }
    if !facts.mounts.is_empty() {
        set(&mut value, "Mounts", json!(facts.mounts));
    }
    if let Some(init) = facts.init {
        set(&mut value, "Init", json!(init));
    }
    value
}

/// What docker has in a HostConfig and nobody can ask for here: as docker shows it where it was not asked for.
fn fixed() -> [(&'static str, Value); 30] {
    [
        ("VolumeDriver", json!("")),
        ("ConsoleSize", json!([0, 0])),
        ("CgroupnsMode", json!("private")),
        ("DnsOptions", json!([])),
        ("DnsSearch", json!([])),
        ("IpcMode", json!("private")),
        ("Cgroup", json!("")),
        ("UTSMode", json!("")),
        ("UsernsMode", json!("")),
        ("Runtime", json!("plimsoll")),
        ("Isolation", json!("")),
        ("CgroupParent", json!("")),
        ("BlkioWeight", json!(0)),
        ("BlkioWeightDevice", json!([])),
        ("BlkioDeviceReadBps", json!([])),
        ("BlkioDeviceWriteBps", json!([])),
        ("BlkioDeviceReadIOps", json!([])),
        ("BlkioDeviceWriteIOps", json!([])),
        ("CpuPeriod", json!(0)),
        ("CpuQuota", json!(0)),
        ("CpuRealtimePeriod", json!(0)),
        ("CpuRealtimeRuntime", json!(0)),
        ("DeviceCgroupRules", Value::Null),
        ("DeviceRequests", Value::Null),
        ("MemorySwappiness", Value::Null),
        ("OomKillDisable", json!(false)),
        ("CpuCount", json!(0)),
        ("CpuPercent", json!(0)),
        ("IOMaximumIOps", json!(0)),
        ("IOMaximumBandwidth", json!(0)),
    ]
}

fn devices(devices: &[(String, String, String)]) -> Value {
    json!(
        devices
            .iter()
            .map(|(host, inside, permissions)| json!({
                "PathOnHost": host,
                "PathInContainer": inside,
                "CgroupPermissions": permissions,
            }))
            .collect::<Vec<_>>()
    )
}

fn ulimits(ulimits: &[(String, i64, i64)]) -> Value {
    let objects: Vec<Value> = ulimits
        .iter()
        .map(|(name, soft, hard)| json!({"Name": name, "Hard": hard, "Soft": soft}))
        .collect();
    or_null(&objects)
}

fn object_or_empty(value: &Value) -> Value {
    if value.is_object() {
        value.clone()
    } else {
        Value::Object(Map::new())
    }
}

fn mount(facts: &MountFacts) -> Value {
    let mut value = json!({
        "Type": facts.kind,
        "Source": facts.source,
        "Destination": facts.destination,
        "Mode": facts.mode,
        "RW": facts.writable,
        "Propagation": match (facts.kind.as_str(), facts.propagation.as_str()) {
            ("bind", "") => "rprivate",
            (_, propagation) => propagation,
        },
    });
    if let Some(name) = &facts.name {
        set(&mut value, "Name", json!(name));
    }
    if facts.kind == "volume" {
        set(&mut value, "Driver", json!("local"));
    }
    value
}

fn config(facts: &ContainerFacts) -> Value {
    let paths = |paths: &[String]| -> Value {
        Value::Object(
            paths
                .iter()
                .map(|path| (path.clone(), json!({})))
                .collect::<Map<_, _>>(),
        )
    };
    let [stdin, stdout, stderr] = facts.attach;
    let mut value = json!({
        "Hostname": facts.hostname,
        "Domainname": "",
        "User": facts.user,
        "AttachStdin": stdin,
        "AttachStdout": stdout,
        "AttachStderr": stderr,
        "Tty": facts.tty,
        "OpenStdin": facts.open_stdin,
        "StdinOnce": facts.stdin_once,
        "Env": facts.env,
        "Cmd": facts.cmd,
        "Image": facts.image,
        "Volumes": if facts.volumes.is_empty() { Value::Null } else { paths(&facts.volumes) },
        "WorkingDir": facts.working_dir,
        "Entrypoint": facts.entrypoint,
        "OnBuild": null,
        "Labels": facts.labels,
    });
    if !facts.exposed_ports.is_empty() {
        set(&mut value, "ExposedPorts", paths(&facts.exposed_ports));
    }
    if let Some(signal) = &facts.stop_signal {
        set(&mut value, "StopSignal", json!(signal));
    }
    if let Some(timeout) = facts.stop_timeout {
        set(&mut value, "StopTimeout", json!(timeout));
    }
    if let Some(healthcheck) = &facts.healthcheck {
        set(&mut value, "Healthcheck", healthcheck.clone());
    }
    value
}

fn network_settings(facts: &ContainerFacts) -> Value {
    // docker repeats the endpoint of the network that is called bridge.
    let bridge = facts.networks.get("bridge");
    let of_bridge = |name: &str, default: Value| {
        bridge
            .and_then(|bridge| bridge.get(name))
            .cloned()
            .unwrap_or(default)
    };
    json!({
        "Bridge": "",
        "SandboxID": "",
        "SandboxKey": "",
        "Ports": object_or_empty(&facts.ports),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": of_bridge("EndpointID", json!("")),
        "Gateway": of_bridge("Gateway", json!("")),
        "GlobalIPv6Address": of_bridge("GlobalIPv6Address", json!("")),
        "GlobalIPv6PrefixLen": of_bridge("GlobalIPv6PrefixLen", json!(0)),
        "IPAddress": of_bridge("IPAddress", json!("")),
        "IPPrefixLen": of_bridge("IPPrefixLen", json!(0)),
        "IPv6Gateway": of_bridge("IPv6Gateway", json!("")),
        "MacAddress": of_bridge("MacAddress", json!("")),
        "Networks": object_or_empty(&facts.networks),
    })
}
