//! `plimsoll vm …`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum VmVerb {
    /// Manage templates: VMs saved where they have booted, from which others of their size go on
    ///
    /// `run --backend vm` on KVM makes one by itself for each size (-m and --cpus) and uses it from then on.
    #[command(subcommand)]
    Template(VmTemplateVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum VmTemplateVerb {
    /// List templates
    #[command(visible_alias = "list")]
    Ls(VmTemplateLsArguments),
    /// Remove templates: the next VM of the size boots, and makes a new one
    #[command(visible_alias = "remove")]
    Rm(VmTemplateRmArguments),
}

#[derive(Debug, Args)]
pub(crate) struct VmTemplateLsArguments {
    /// Print only the names
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VmTemplateRmArguments {
    /// Remove all of them
    #[arg(short, long, conflicts_with = "templates")]
    pub(crate) all: bool,

    /// Names
    #[arg(required_unless_present = "all", value_name = "TEMPLATE")]
    pub(crate) templates: Vec<String>,
}
