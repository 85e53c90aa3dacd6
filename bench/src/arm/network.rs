//! Arms of network work: a server in one instance, and a client on the host that reaches it by its published port, or in another
//! instance on the same bridge. Everything happens in a network namespace of the harness's own, so that the host's rules and other
//! traffic have no part in it.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command as Program;
use std::rc::Rc;
use std::sync::Arc;

use engine::Substrate as Kvm;
use reports::results::{self, ArmKind, Substrate, arm_id};

use super::plimsoll::Command;
use super::{Arm, Candidate, NOT_REACHED, Pace, Places, Purpose, entry};
use crate::image::Images;
use crate::launch::Launch;
use crate::limits::Limits;

/// The server's port inside its instance.
const PORT: u16 = 7000;

/// The host's ports, from here on, one for each arm.
const FIRST_HOST_PORT: u16 = 17_000;

/// The network on which instances meet, and the first of their servers' addresses.
const SUBNET: &str = "10.213.0.0/24";
const FIRST_ADDRESS: u8 = 10;

/// Where the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    /// On the host: the server's published port.
    OnHost,
    /// In another instance of the same arm, on the same bridge.
    InInstance,
}

/// What network work needs besides what all arms do.
pub(crate) struct Networks {
    command: Command,
    images: Rc<Images>,
    limits: Limits,
    /// Whether arms that take tens of seconds to start take part.
    patient: bool,
    namespace: Option<Arc<OwnedFd>>,
    /// The bridge network's name, once it is made.
    bridge: Option<String>,
}

impl Networks {
    pub(crate) fn new(
        command: &Command,
        images: &Rc<Images>,
        limits: Limits,
        patient: bool,
    ) -> Self {
        Self {
            command: command.clone(),
            images: images.clone(),
            limits,
            patient,
            namespace: None,
            bridge: None,
        }
    }

    fn namespace(&mut self) -> Result<Arc<OwnedFd>, String> {
        if let Some(namespace) = &self.namespace {
            return Ok(namespace.clone());
        }
        let made = own_namespace()
            .map_err(|error| format!("a network namespace of our own cannot be made: {error}"))?;
        Ok(self.namespace.insert(made).clone())
    }

    fn plimsoll(&self, namespace: &Arc<OwnedFd>, arguments: &[&str]) -> Result<(), String> {
        let mut program = Program::new(&self.command.program);
        program
            .args(arguments)
            .env("PLIMSOLL_ROOT", &self.command.root);
        crate::launch::enter(&mut program, None, Some(namespace));
        crate::peers::output(&mut program).map(drop)
    }

    /// The arms, with clients there.
    pub(crate) fn candidates(&mut self, client: Client) -> Result<Vec<Candidate>, String> {
        let namespace = self.namespace()?;
        if client == Client::InInstance && self.bridge.is_none() {
            let name = format!("bench{}", std::process::id());
            let create = ["network", "create", "--subnet", SUBNET, &name];
            self.plimsoll(&namespace, &create)?;
            self.bridge = Some(name);
        }
        let mut ways: Vec<(results::Arm, &'static [&'static str], Pace)> = vec![
            (
                entry(arm_id::NATIVE, "native", ArmKind::Native),
                &[],
                Pace::Quick,
            ),
            (
                entry(arm_id::NATIVE_CONTROL, "", ArmKind::Native),
                &[],
                Pace::Quick,
            ),
            (
                entry(arm_id::CONTAINER, "container", ArmKind::Container),
                &["--backend", "container"],
                Pace::Quick,
            ),
        ];
        let substrate = engine::substrate();
        let hardware = matches!(substrate, Kvm::Vmx | Kvm::Svm);
        let qemu = engine::qemu_binary().is_some() && self.command.kernel.is_file();
        if hardware || (self.patient && matches!(substrate, Kvm::Pvm)) {
            let pace = if hardware { Pace::Slow } else { Pace::VerySlow };
            let vm = entry(arm_id::VM, "", ArmKind::Vm);
            ways.push((vm, &["--backend", "vm", "--accel", "kvm"], pace));
        }
        if !hardware && qemu {
            let vm = entry(arm_id::VM_TCG, "", ArmKind::Vm);
            ways.push((vm, &["--backend", "vm", "--accel", "tcg"], Pace::Slow));
        }
        // A toolbox's instances meet nobody on the host's bridges: they are its own machine's.
        if client == Client::OnHost && (hardware || qemu) {
            let accel = if hardware { "kvm" } else { "tcg" };
            let flags: &[&str] = match accel {
                "kvm" => &["--backend", "toolbox", "--accel", "kvm"],
                _ => &["--backend", "toolbox", "--accel", "tcg"],
            };
            ways.push((toolbox(), flags, Pace::Slow));
        }
        Ok((0..)
            .zip(ways)
            .map(|(number, (about, flags, pace))| {
                Candidate::Able(Box::new(Networked {
                    about,
                    flags,
                    pace,
                    client,
                    number,
                    bridge: self.bridge.clone().unwrap_or_default(),
                    command: self.command.clone(),
                    images: self.images.clone(),
                    limits: self.limits,
                    namespace: namespace.clone(),
                    started: Cell::new(0),
                }) as Box<dyn Arm>)
            })
            .collect())
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        if let (Some(namespace), Some(bridge)) = (&self.namespace, &self.bridge) {
            // The instances are gone by now. What stays is a name in the harness's own state directory.
            let _ = self.plimsoll(namespace, &["network", "rm", bridge]);
        }
    }
}

/// The entry of the container engine inside the VM, on the accelerator that starts quickly.
pub(crate) fn toolbox() -> results::Arm {
    let mut about = entry(
        arm_id::TOOLBOX,
        "toolbox: a container in a microVM",
        ArmKind::Toolbox,
    );
    let (name, hardware) = match engine::substrate() {
        Kvm::Vmx => ("vmx", true),
        Kvm::Svm => ("svm", true),
        Kvm::Pvm | Kvm::None { .. } => ("tcg", false),
    };
    about.substrate = Some(Substrate {
        name: name.to_owned(),
        hardware,
    });
    about
}

/// The toolbox's place among the arms, before network work comes to it.
pub(crate) fn toolbox_candidate() -> Candidate {
    Candidate::unable(toolbox(), NOT_REACHED)
}

/// A network namespace with nothing but a loopback interface that is up.
fn own_namespace() -> io::Result<Arc<OwnedFd>> {
    // A thread of its own takes the namespace; the descriptor keeps it when the thread has gone.
    let made = std::thread::spawn(|| -> io::Result<OwnedFd> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        loopback_up()?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    });
    match made.join() {
        Ok(namespace) => namespace.map(Arc::new),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: ifreq is plain data, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the request takes an ifreq, which lives through the call.
    match unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS as _, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

struct Networked {
    about: results::Arm,
    flags: &'static [&'static str],
    pace: Pace,
    client: Client,
    /// Among the arms: which port or address is its server's.
    number: u16,
    bridge: String,
    command: Command,
    images: Rc<Images>,
    limits: Limits,
    namespace: Arc<OwnedFd>,
    started: Cell<u32>,
}

impl Networked {
    fn is_native(&self) -> bool {
        self.about.kind == ArmKind::Native
    }

    fn host_port(&self) -> u16 {
        FIRST_HOST_PORT + self.number
    }

    fn address(&self) -> String {
        let subnet = SUBNET.split_once(".0/").map_or(SUBNET, |(start, _)| start);
        format!("{subnet}.{}", u16::from(FIRST_ADDRESS) + self.number)
    }

    fn native(&self, workload: &[&str]) -> Launch {
        let mut launch = Launch::new(self.images.base.file("bin/workload"), workload);
        launch.network = Some(self.namespace.clone());
        launch
    }

    fn instance(&self, flags: &[&str], workload: &[&str]) -> Launch {
        let name = format!(
            "bench-net-{}-{}-{}",
            std::process::id(),
            self.about.id,
            self.started.get()
        );
        self.started.set(self.started.get() + 1);
        let cpus = self.limits.cpus.to_string();
        let memory = self.limits.memory.to_string();
        let mut args = vec!["run", "-i", "--name", &name, "--cpus", &cpus, "-m", &memory];
        args.extend(self.flags);
        args.extend(flags);
        args.extend([self.images.base.name.as_str(), "/bin/workload"]);
        args.extend(workload);
        let mut launch = Launch::new(&self.command.program, args);
        launch.network = Some(self.namespace.clone());
        let program = OsString::from(&self.command.program);
        let rm = ["rm", "-f", &name].map(OsString::from);
        launch.remove = Some(std::iter::once(program).chain(rm).collect());
        for (variable, path) in [
            ("PLIMSOLL_ROOT", &self.command.root),
            ("PLIMSOLL_KERNEL", &self.command.kernel),
        ] {
            launch
                .env
                .push((variable.to_owned(), path.display().to_string()));
        }
        launch
    }
}

impl Arm for Networked {
    fn about(&self) -> &results::Arm {
        &self.about
    }

    fn launch(&self, workload: &[&str], _: &Purpose) -> Result<Launch, String> {
        let (inside, outside) = (PORT.to_string(), self.host_port().to_string());
        let publish = format!("{outside}:{inside}");
        let (server, mut client) = match (self.is_native(), self.client) {
            (true, _) => (
                self.native(&["echo", &outside, "until-eof"]),
                self.native(workload),
            ),
            (false, Client::OnHost) => (
                self.instance(&["-p", &publish], &["echo", &inside, "until-eof"]),
                self.native(workload),
            ),
            (false, Client::InInstance) => (
                self.instance(
                    &["--network", &self.bridge, "--ip", &self.address()],
                    &["echo", &inside, "until-eof"],
                ),
                self.instance(&["--network", &self.bridge], workload),
            ),
        };
        client.companions.push(server);
        Ok(client)
    }

    fn image_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn places(&self) -> Option<Places> {
        let peer = match (self.is_native(), self.client) {
            (true, _) | (_, Client::OnHost) => format!("127.0.0.1:{}", self.host_port()),
            (false, Client::InInstance) => format!("{}:{PORT}", self.address()),
        };
        Some(Places {
            image_file: String::new(),
            scratch: String::new(),
            peer,
        })
    }

    fn pace(&self) -> Pace {
        self.pace
    }

    fn asks_from_inside(&self) -> bool {
        self.client == Client::InInstance
    }
}
