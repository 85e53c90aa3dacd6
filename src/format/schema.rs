//! The fields of what `inspect` shows, in docker's order, and which of them are structs, maps or lists.

use crate::template::Shape::{self, Any, List, Map, Text};
use crate::template::Struct;

/// A list of anything.
const LIST: Shape = List(&Any);
/// A map to anything.
const MAP: Shape = Map(&Any);

pub(crate) static CONTAINER: Struct = Struct::with_alias(
    &[
        ("Id", Any),
        ("Created", Any),
        ("Path", Any),
        ("Args", LIST),
        ("State", Shape::Struct(&STATE)),
        ("Image", Any),
        ("ResolvConfPath", Any),
        ("HostnamePath", Any),
        ("HostsPath", Any),
        ("LogPath", Any),
        ("Name", Any),
        ("RestartCount", Any),
        ("Driver", Any),
        ("Platform", Any),
        ("MountLabel", Any),
        ("ProcessLabel", Any),
        ("AppArmorProfile", Any),
        ("ExecIDs", LIST),
        ("HostConfig", Shape::Struct(&HOST_CONFIG)),
        ("GraphDriver", Shape::Struct(&GRAPH_DRIVER)),
        ("SizeRw", Any),
        ("SizeRootFs", Any),
        ("Mounts", List(&Shape::Struct(&MOUNT))),
        ("Config", Shape::Struct(&CONFIG)),
        ("NetworkSettings", Shape::Struct(&NETWORK_SETTINGS)),
    ],
    ("ID", "Id"),
);

static STATE: Struct = Struct::new(&[
    ("Status", Any),
    ("Running", Any),
    ("Paused", Any),
    ("Restarting", Any),
    ("OOMKilled", Any),
    ("Dead", Any),
    ("Pid", Any),
    ("ExitCode", Any),
    ("Error", Any),
    ("StartedAt", Any),
    ("FinishedAt", Any),
    ("Health", Shape::Struct(&HEALTH)),
]);

static HEALTH: Struct = Struct::new(&[("Status", Any), ("FailingStreak", Any), ("Log", LIST)]);

static GRAPH_DRIVER: Struct = Struct::new(&[("Data", MAP), ("Name", Any)]);

static MOUNT: Struct = Struct::new(&[
    ("Type", Any),
    ("Name", Text),
    ("Source", Any),
    ("Destination", Any),
    ("Driver", Text),
    ("Mode", Any),
    ("RW", Any),
    ("Propagation", Any),
]);

static CONFIG: Struct = Struct::new(&[
    ("Hostname", Any),
    ("Domainname", Any),
    ("User", Any),
    ("AttachStdin", Any),
    ("AttachStdout", Any),
    ("AttachStderr", Any),
    ("ExposedPorts", MAP),
    ("Tty", Any),
    ("OpenStdin", Any),
    ("StdinOnce", Any),
    ("Env", LIST),
    ("Cmd", LIST),
    ("Healthcheck", Shape::Struct(&HEALTHCHECK)),
    ("Image", Any),
    ("Volumes", MAP),
    ("WorkingDir", Any),
    ("Entrypoint", LIST),
    ("NetworkDisabled", Any),
    ("MacAddress", Text),
    ("OnBuild", LIST),
    ("Labels", MAP),
    ("StopSignal", Text),
    ("StopTimeout", Any),
    ("Shell", LIST),
]);

static HEALTHCHECK: Struct = Struct::new(&[
    ("Test", LIST),
    ("Interval", Any),
    ("Timeout", Any),
    ("StartPeriod", Any),
    ("StartInterval", Any),
    ("Retries", Any),
]);

static RESTART_POLICY: Struct = Struct::new(&[("Name", Any), ("MaximumRetryCount", Any)]);

static LOG_CONFIG: Struct = Struct::new(&[("Type", Any), ("Config", MAP)]);

static ULIMIT: Struct = Struct::new(&[("Name", Any), ("Hard", Any), ("Soft", Any)]);

static HOST_CONFIG: Struct = Struct::new(&[
    ("Binds", LIST),
    ("ContainerIDFile", Any),
    ("LogConfig", Shape::Struct(&LOG_CONFIG)),
    ("NetworkMode", Any),
    ("PortBindings", MAP),
    ("RestartPolicy", Shape::Struct(&RESTART_POLICY)),
    ("AutoRemove", Any),
    ("VolumeDriver", Any),
    ("VolumesFrom", LIST),
    ("ConsoleSize", LIST),
    ("Annotations", MAP),
    ("CapAdd", LIST),
    ("CapDrop", LIST),
    ("CgroupnsMode", Any),
    ("Dns", LIST),
    ("DnsOptions", LIST),
    ("DnsSearch", LIST),
    ("ExtraHosts", LIST),
    ("GroupAdd", LIST),
    ("IpcMode", Any),
    ("Cgroup", Any),
    ("Links", LIST),
    ("OomScoreAdj", Any),
    ("PidMode", Any),
    ("Privileged", Any),
    ("PublishAllPorts", Any),
    ("ReadonlyRootfs", Any),
    ("SecurityOpt", LIST),
    ("StorageOpt", MAP),
    ("Tmpfs", MAP),
    ("UTSMode", Any),
    ("UsernsMode", Any),
    ("ShmSize", Any),
    ("Sysctls", MAP),
    ("Runtime", Any),
    ("Isolation", Any),
    ("CpuShares", Any),
    ("Memory", Any),
    ("NanoCpus", Any),
    ("CgroupParent", Any),
    ("BlkioWeight", Any),
    ("BlkioWeightDevice", LIST),
    ("BlkioDeviceReadBps", LIST),
    ("BlkioDeviceWriteBps", LIST),
    ("BlkioDeviceReadIOps", LIST),
    ("BlkioDeviceWriteIOps", LIST),
    ("CpuPeriod", Any),
    ("CpuQuota", Any),
    ("CpuRealtimePeriod", Any),
    ("CpuRealtimeRuntime", Any),
    ("CpusetCpus", Any),
    ("CpusetMems", Any),
    ("Devices", LIST),
    ("DeviceCgroupRules", LIST),
    ("DeviceRequests", LIST),
    ("MemoryReservation", Any),
    ("MemorySwap", Any),
    ("MemorySwappiness", Any),
    ("OomKillDisable", Any),
    ("PidsLimit", Any),
    ("Ulimits", List(&Shape::Struct(&ULIMIT))),
    ("CpuCount", Any),
    ("CpuPercent", Any),
    ("IOMaximumIOps", Any),
    ("IOMaximumBandwidth", Any),
    ("Mounts", LIST),
    ("MaskedPaths", LIST),
    ("ReadonlyPaths", LIST),
    ("Init", Any),
]);

static NETWORK_SETTINGS: Struct = Struct::new(&[
    ("Bridge", Any),
    ("SandboxID", Any),
    ("SandboxKey", Any),
    ("Ports", MAP),
    ("HairpinMode", Any),
    ("LinkLocalIPv6Address", Any),
    ("LinkLocalIPv6PrefixLen", Any),
    ("SecondaryIPAddresses", LIST),
    ("SecondaryIPv6Addresses", LIST),
    ("EndpointID", Any),
    ("Gateway", Any),
    ("GlobalIPv6Address", Any),
    ("GlobalIPv6PrefixLen", Any),
    ("IPAddress", Any),
    ("IPPrefixLen", Any),
    ("IPv6Gateway", Any),
    ("MacAddress", Any),
    ("Networks", Map(&Shape::Struct(&ENDPOINT))),
]);

static ENDPOINT: Struct = Struct::new(&[
    ("IPAMConfig", MAP),
    ("Links", LIST),
    ("Aliases", LIST),
    ("MacAddress", Any),
    ("DriverOpts", MAP),
    ("NetworkID", Any),
    ("EndpointID", Any),
    ("Gateway", Any),
    ("IPAddress", Any),
    ("IPPrefixLen", Any),
    ("IPv6Gateway", Any),
    ("GlobalIPv6Address", Any),
    ("GlobalIPv6PrefixLen", Any),
    ("DNSNames", LIST),
]);

pub(crate) static IMAGE: Struct = Struct::with_alias(
    &[
        ("Id", Any),
        ("RepoTags", LIST),
        ("RepoDigests", LIST),
        ("Parent", Any),
        ("Comment", Any),
        ("Created", Any),
        ("DockerVersion", Any),
        ("Author", Any),
        ("Config", Shape::Struct(&CONFIG)),
        ("Architecture", Any),
        ("Variant", Text),
        ("Os", Any),
        ("Size", Any),
        ("GraphDriver", Shape::Struct(&GRAPH_DRIVER)),
        ("RootFS", Shape::Struct(&ROOT_FS)),
        ("Metadata", Shape::Struct(&METADATA)),
    ],
    ("ID", "Id"),
);

static ROOT_FS: Struct = Struct::new(&[("Type", Any), ("Layers", LIST)]);

static METADATA: Struct = Struct::new(&[("LastTagTime", Any)]);

pub(crate) static NETWORK: Struct = Struct::with_alias(
    &[
        ("Name", Any),
        ("Id", Any),
        ("Created", Any),
        ("Scope", Any),
        ("Driver", Any),
        ("EnableIPv4", Any),
        ("EnableIPv6", Any),
        ("IPAM", MAP),
        ("Internal", Any),
        ("Attachable", Any),
        ("Ingress", Any),
        ("ConfigFrom", MAP),
        ("ConfigOnly", Any),
        ("Containers", MAP),
        ("Options", MAP),
        ("Labels", MAP),
    ],
    ("ID", "Id"),
);

pub(crate) static VOLUME: Struct = Struct::new(&[
    ("CreatedAt", Any),
    ("Driver", Any),
    ("Labels", MAP),
    ("Mountpoint", Any),
    ("Name", Any),
    ("Options", MAP),
    ("Scope", Any),
]);
