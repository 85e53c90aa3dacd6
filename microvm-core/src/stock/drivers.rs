//! Which drivers a machine takes, and whether a kernel has them.

use std::path::Path;

use super::modules::{Tree, places};
use crate::{Error, Result};

/// What a machine has that its kernel must have drivers for, besides disks and the control channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wants {
    /// Network devices.
    pub networks: bool,
    /// Directories or files of the host.
    pub shares: bool,
    /// A container engine inside, with networks of its own.
    pub engine: bool,
}

impl Wants {
    /// A word for these wants that is no other's.
    pub(super) fn word(self) -> String {
        [self.networks, self.shares, self.engine]
            .map(|wanted| if wanted { '1' } else { '0' })
            .iter()
            .collect()
    }
}

/// When a driver is taken along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    Networks,
    Shares,
    Engine,
    /// If the kernel has it.
    IfThere,
}

/// A driver: its module's name, and its option in the kernel's configuration.
struct Driver(&'static str, &'static str, When);

const DRIVERS: [Driver; 22] = [
    Driver("virtio_mmio", "VIRTIO_MMIO", When::Always),
    Driver("virtio_console", "VIRTIO_CONSOLE", When::Always),
    Driver("virtio_blk", "VIRTIO_BLK", When::Always),
    Driver("erofs", "EROFS_FS", When::Always),
    Driver("overlay", "OVERLAY_FS", When::Always),
    Driver("ext4", "EXT4_FS", When::Always),
    Driver("virtio_net", "VIRTIO_NET", When::Networks),
    Driver("virtiofs", "VIRTIO_FS", When::Shares),
    // A guest has no program that loads modules when the kernel asks for them: all that network-core's rules may name.
    Driver("veth", "VETH", When::Engine),
    Driver("bridge", "BRIDGE", When::Engine),
    Driver("nf_tables", "NF_TABLES", When::Engine),
    Driver("nf_conntrack", "NF_CONNTRACK", When::Engine),
    Driver("nf_conntrack_netlink", "NF_CT_NETLINK", When::Engine),
    Driver("nft_ct", "NFT_CT", When::Engine),
    Driver("nft_nat", "NFT_NAT", When::Engine),
    Driver("nft_chain_nat", "NFT_NAT", When::Engine),
    Driver("nft_masq", "NFT_MASQ", When::Engine),
    Driver("nft_redir", "NFT_REDIR", When::Engine),
    Driver("nft_reject", "NFT_REJECT", When::Engine),
    Driver("nft_fib_ipv4", "NFT_FIB_IPV4", When::Engine),
    Driver("nft_meta_bridge", "NFT_BRIDGE_META", When::Engine),
    Driver("virtio_rng", "HW_RANDOM_VIRTIO", When::IfThere),
];

/// What the agent needs that is never a module.
const BUILT_IN: [&str; 6] = [
    "BINFMT_ELF",
    "BLK_DEV_INITRD",
    "DEVTMPFS",
    "PID_NS",
    "TMPFS",
    "UNIX98_PTYS",
];

/// What a kernel's configuration says of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Setting {
    BuiltIn,
    Module,
    Not,
}

fn setting(config: &str, option: &str) -> Setting {
    let value = |line: &str| {
        let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
        (name == option).then(|| match value.trim_end() {
            "y" => Setting::BuiltIn,
            "m" => Setting::Module,
            _ => Setting::Not,
        })
    };
    config.lines().find_map(value).unwrap_or(Setting::Not)
}

/// The modules to load for a machine, in any order, or the option that the kernel lacks. What neither the tree nor the
/// configuration tells is taken to be built in: the agent says it when it is not.
pub(super) fn choose(
    kernel: &Path,
    release: Option<&str>,
    tree: Option<&Tree>,
    config: Option<&str>,
    wants: Wants,
) -> Result<Vec<&'static str>> {
    let refuse = |why: String| {
        Err(Error::Kernel {
            path: kernel.to_owned(),
            why,
        })
    };
    let lacks =
        |option: &str, what: &str| refuse(format!("has no CONFIG_{option}, which {what} needs"));
    if let Some(config) = config
        && let Some(option) = BUILT_IN
            .iter()
            .find(|option| setting(config, option) != Setting::BuiltIn)
    {
        return lacks(option, "the guest agent");
    }
    let mut modules = Vec::new();
    for Driver(module, option, when) in &DRIVERS {
        let what = match when {
            When::Networks if wants.networks => "a network device",
            When::Shares if wants.shares => "a volume or bind mount",
            When::Engine if wants.engine => "a toolbox",
            When::Always => "a microVM",
            When::IfThere => "",
            When::Networks | When::Shares | When::Engine => continue,
        };
        let setting = config.map(|config| setting(config, option));
        match tree.and_then(|tree| tree.has(module)) {
            Some(true) => modules.push(*module),
            _ if setting == Some(Setting::BuiltIn) || *when == When::IfThere => {}
            Some(false) => return lacks(option, what),
            None => match setting {
                Some(Setting::Module) => {
                    let release = release.unwrap_or("RELEASE");
                    let place = places(kernel, release).into_iter().next();
                    return refuse(format!(
                        "has CONFIG_{option} as a module, and its modules are neither in {} nor in /lib/modules/{release}: \
                         install or unpack its package",
                        place.unwrap_or_default().display()
                    ));
                }
                Some(_) => return lacks(option, what),
                None => {}
            },
        }
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::super::modules::tests::tree;
    use super::*;

    const EVERYTHING: Wants = Wants {
        networks: true,
        shares: true,
        engine: true,
    };

    fn config(without: &str, modules: &[&str]) -> String {
        let drivers = DRIVERS.iter().map(|Driver(_, option, _)| *option);
        let line = |option: &str| match option {
            option if option == without => format!("# CONFIG_{option} is not set\n"),
            option if modules.contains(&option) => format!("CONFIG_{option}=m\n"),
            option => format!("CONFIG_{option}=y\n"),
        };
        BUILT_IN.into_iter().chain(drivers).map(line).collect()
    }

    fn without_modules(config: Option<&str>, wants: Wants) -> Result<Vec<&'static str>> {
        choose(
            Path::new("/b/boot/vmlinuz-6.1"),
            Some("6.1"),
            None,
            config,
            wants,
        )
    }

    #[test]
    fn a_kernel_with_everything_built_in_needs_no_modules() {
        let chosen = without_modules(Some(&config("", &[])), EVERYTHING);
        assert_eq!(chosen.unwrap(), <[&str; 0]>::default());
        let unknown = without_modules(None, EVERYTHING);
        assert_eq!(unknown.unwrap(), <[&str; 0]>::default());
    }

    #[test]
    fn what_is_lacking_is_refused_by_the_options_name_if_the_machine_takes_it() {
        for option in [
            "EROFS_FS",
            "VIRTIO_MMIO",
            "PID_NS",
            "VIRTIO_NET",
            "VIRTIO_FS",
            "NFT_NAT",
        ] {
            let config = config(option, &[]);
            let refused = without_modules(Some(&config), EVERYTHING).unwrap_err();
            let wanted = format!("vmlinuz-6.1: has no CONFIG_{option}, which ");
            assert!(refused.to_string().contains(&wanted), "{refused}");
        }
        for option in ["VIRTIO_NET", "VIRTIO_FS", "NFT_NAT", "HW_RANDOM_VIRTIO"] {
            let config = config(option, &[]);
            without_modules(Some(&config), Wants::default()).unwrap();
        }
    }

    #[test]
    fn modules_that_are_not_there_are_asked_for() {
        let config = config("", &["OVERLAY_FS"]);
        let refused = without_modules(Some(&config), EVERYTHING).unwrap_err();
        let refused = refused.to_string();
        assert!(
            refused.contains("CONFIG_OVERLAY_FS as a module"),
            "{refused}"
        );
        assert!(refused.contains("/b/lib/modules/6.1"), "{refused}");
    }

    #[test]
    fn a_tree_tells_without_a_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<String> = DRIVERS
            .iter()
            .filter(|Driver(module, ..)| *module != "erofs")
            .map(|Driver(module, ..)| format!("kernel/{module}.ko"))
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|path| (path.as_str(), "")).collect();
        tree(folder.path(), &files, &["kernel/fs/erofs.ko"]);
        let whole = Tree::open(folder.path()).unwrap();
        let kernel = Path::new("/k");
        let chosen = choose(kernel, None, Some(&whole), None, EVERYTHING).unwrap();
        assert_eq!(chosen.len(), DRIVERS.len());
        tree(folder.path(), &[], &[]);
        let lacking = Tree::open(folder.path()).unwrap();
        let refused = choose(kernel, None, Some(&lacking), None, EVERYTHING).unwrap_err();
        assert!(refused.to_string().contains("CONFIG_EROFS_FS"), "{refused}");
    }
}
