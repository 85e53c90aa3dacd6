//! `plimsoll vm template ls` and `rm`.

use std::path::Path;

use engine::{Home, vm_template};

use crate::cli::{VmTemplateLsArguments, VmTemplateRmArguments, VmTemplateVerb, VmVerb};
use crate::output;

pub(crate) fn vm(root: &Path, verb: &VmVerb) -> anyhow::Result<u8> {
    let VmVerb::Template(verb) = verb;
    let home = Home::open(root)?;
    match verb {
        VmTemplateVerb::Ls(arguments) => ls(&home, arguments),
        VmTemplateVerb::Rm(arguments) => rm(&home, arguments),
    }
}

fn ls(home: &Home, arguments: &VmTemplateLsArguments) -> anyhow::Result<u8> {
    let templates = vm_template::list(home)?;
    if arguments.quiet {
        for template in &templates {
            println!("{}", output::printable(&template.name));
        }
        return Ok(0);
    }
    let rows: Vec<Vec<String>> = templates
        .iter()
        .map(|template| {
            let name = output::printable(&template.name);
            match &template.facts {
                Ok(facts) => vec![
                    name,
                    format!("{}MiB", facts.memory >> 20),
                    facts.cpus.to_string(),
                    output::ago(facts.created),
                    output::size(facts.size),
                ],
                Err(why) => vec![name, format!("unusable: {}", output::printable(why))],
            }
        })
        .collect();
    output::table(&["TEMPLATE", "MEMORY", "CPUS", "CREATED", "SIZE"], &rows)?;
    Ok(0)
}

fn rm(home: &Home, arguments: &VmTemplateRmArguments) -> anyhow::Result<u8> {
    let names = match arguments.all {
        true => vm_template::list(home)?
            .into_iter()
            .map(|template| template.name)
            .collect(),
        false => arguments.templates.clone(),
    };
    let mut code = 0;
    for name in &names {
        match vm_template::remove(home, name) {
            Ok(true) => println!("{name}"),
            Ok(false) => {
                eprintln!("plimsoll: no such template: {name}");
                code = 1;
            }
            Err(error) => {
                eprintln!("plimsoll: {error}");
                code = 1;
            }
        }
    }
    Ok(code)
}
