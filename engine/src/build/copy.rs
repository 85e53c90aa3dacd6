//! `COPY` and `ADD` as steps: their words become paths, owners and permissions.

use std::fs::File;

use image_core::dockerfile::Transfer as Asked;

use super::draft::Draft;
use super::ignore::Ignore;
use super::stages::Plan;
use super::step::{Doing, no_command};
use super::transfer::{Over, Source, Transfer};
use super::{Builder, Progress};
use crate::error::{Error, Result};
use crate::process::ACCOUNTS_MAX;
use crate::user;

impl Builder<'_> {
    #[expect(
        clippy::too_many_arguments,
        reason = "one call, of which each part is needed once"
    )]
    pub(super) fn transfer(
        &mut self,
        draft: &mut Draft,
        index: usize,
        keyword: &'static str,
        asked: &Asked,
        text: &str,
        plan: &Plan,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let variable = |name: &str| draft.variable(name);
        let patterns: Vec<String> = asked
            .sources
            .iter()
            .map(|word| word.expand(&variable))
            .collect();
        let owner = match &asked.chown {
            Some(word) => Some(self.owner(draft, &word.expand(&variable))?),
            None => None,
        };
        let mode = match &asked.chmod {
            Some(word) => Some(permissions(&word.expand(&variable))?),
            None => None,
        };
        let config = draft.own();
        let workdir = config.working_dir().clone().unwrap_or_default();
        let destination = destination(&workdir, &asked.destination.expand(&variable))?;
        let source = self.source(asked, index, plan)?;
        let transfer = Transfer {
            keyword,
            source: &source,
            patterns: &patterns,
            destination: &destination,
            owner,
            mode,
            unpacks: keyword == "ADD",
        };
        let found = transfer.find()?;
        let doing = Doing {
            key: draft.key_of(&[
                keyword,
                &found.content.to_string(),
                &destination,
                &format!("{owner:?} {mode:?}"),
            ]),
            config,
            created_by: no_command(&format!("{keyword} {} in {destination} ", found.shown())),
            author: None,
            text,
        };
        let layers = self.layers(draft)?;
        let times = self.times();
        let make = |builder: &Builder<'_>, _: &mut dyn Progress| {
            transfer
                .store(&found, builder.store, &builder.lease, &layers, times)
                .map(Some)
        };
        self.take(draft, doing, progress, Box::new(make))
    }

    /// Where COPY and ADD take files from.
    fn source(&self, asked: &Asked, index: usize, plan: &Plan) -> Result<Source> {
        let Some(from) = &asked.from else {
            let context = &self.options.context;
            let root = File::open(context).map_err(|e| Error::io("open", context, e))?;
            return Ok(Source {
                root: root.into(),
                ignore: self.ignore()?,
                is_context: true,
            });
        };
        let name = from.expand(&|_| None);
        let layers = match plan.stage(&name, index) {
            Some(stage) => match self.done.get(stage).and_then(Option::as_ref) {
                Some(draft) => self.layers(draft)?,
                None => {
                    return Err(Error::Unsupported(format!(
                        "the stage {name} was not built"
                    )));
                }
            },
            None => self.store.layer_dirs(&self.image(&name)?)?,
        };
        Ok(Source {
            root: Over::new(&self.lease, &layers)?.into_root(),
            ignore: Ignore::default(),
            is_context: false,
        })
    }

    /// `--chown`: numbers, or names of the image's own files.
    fn owner(&self, draft: &Draft, text: &str) -> Result<(u32, u32)> {
        let read = |path: &str| -> Result<String> {
            if draft.layers.is_empty() {
                return Ok(String::new());
            }
            let bytes = self.store.read_file(draft.image(), path, ACCOUNTS_MAX)?;
            Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
        };
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        let wrong = |part: &str| {
            Error::Unsupported(format!(
                "--chown={text}: the image's passwd and group files do not know {part:?}"
            ))
        };
        let (passwd, groups) = (read("etc/passwd")?, read("etc/group")?);
        let uid = user::number_of(user, &passwd).ok_or_else(|| wrong(user))?;
        let gid = user::number_of(group, &groups).ok_or_else(|| wrong(group))?;
        Ok((uid, gid))
    }
}

fn permissions(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777 && text.bytes().all(|c| c.is_ascii_digit()))
        .ok_or_else(|| {
            Error::Unsupported(format!(
                "--chmod={text} is not supported: octal permissions are, such as 755"
            ))
        })
}

/// An absolute path, with a slash at its end where the path means a directory by the way it is written.
fn destination(workdir: &str, text: &str) -> Result<String> {
    if text.is_empty() {
        return Err(Error::Unsupported("the destination is empty".into()));
    }
    let whole = if text.starts_with('/') {
        text.to_owned()
    } else {
        format!("{workdir}/{text}")
    };
    let mut kept: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            part => kept.push(part),
        }
    }
    let is_directory = matches!(text.rsplit('/').next(), Some("" | "." | ".."));
    let mut path = format!("/{}", kept.join("/"));
    if is_directory && !path.ends_with('/') {
        path.push('/');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_absolute_and_keep_that_they_are_directories() {
        for (workdir, text, wanted) in [
            ("", "x", "/x"),
            ("/work", "x", "/work/x"),
            ("/work", ".", "/work/"),
            ("/work", "./", "/work/"),
            ("/work", "../../..", "/"),
            ("/work", "/a/../b/", "/b/"),
            ("/", "/", "/"),
        ] {
            assert_eq!(destination(workdir, text).unwrap(), wanted, "{text}");
        }
        assert!(destination("/", "").is_err());
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(permissions("0755").unwrap(), 0o755);
        assert_eq!(permissions("4711").unwrap(), 0o4711);
        for bad in ["u+x", "8", "17777", "", "+7"] {
            assert!(permissions(bad).is_err(), "{bad}");
        }
    }
}
