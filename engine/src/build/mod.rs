//! `build`: an image out of a Dockerfile, step by step, each of which is remembered by all that went into it.
//!
//! ```text
//! Dockerfile ─► the stages that the target needs ─► steps ─► key ──► the cache has it: its layer, and on
//!                                                             └────► done: RUN in a container, COPY into an overlay ─► layer
//! ```
//!
//! A key is made of the key before it, the instruction with its variables put in, what is copied (content, names, owners and
//! permissions, but no times), and for RUN the values of build arguments. The layer that a step came to goes into the next key.
//! Layers of finished steps are in the store, kept by the cache, before the next step begins: a build that is killed leaves them, and
//! no image, and the next one goes on from there.

mod copy;
mod draft;
mod ignore;
mod run;
mod stages;
mod step;
mod transfer;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image_core::dockerfile::Dockerfile;
use image_core::{CacheUse, Image, Lease, Reference, Store, source_date};

use self::draft::{Draft, PREDEFINED};
use self::ignore::Ignore;
use crate::base;
use crate::error::{Error, Result};
use crate::home::Home;
use crate::network::NetworkMode;

/// The largest Dockerfile or `.dockerignore` that is read, bytes.
const FILE_MAX: u64 = 1 << 20;

/// Finds the image that a name means, fetching it if need be.
pub type Find<'f> = dyn Fn(&Store, &str) -> Result<Image> + 'f;

/// What a build is told.
pub struct BuildOptions<'o> {
    /// The directory whose files COPY and ADD see.
    pub context: PathBuf,
    /// The Dockerfile's text.
    pub dockerfile: Vec<u8>,
    /// Its path, if it is a file: a `.dockerignore` of its own may lie beside it.
    pub path: Option<PathBuf>,
    /// Names for the image.
    pub names: Vec<Reference>,
    /// `--build-arg`: names and values.
    pub arguments: Vec<(String, String)>,
    /// `--label`: keys and values.
    pub labels: Vec<(String, String)>,
    /// The stage to build; the last one if none is named.
    pub target: Option<String>,
    /// Whether every step is done anew.
    pub no_cache: bool,
    /// The network of RUN.
    pub network: NetworkMode,
    /// Finds the images of FROM and `COPY --from`.
    pub find: &'o Find<'o>,
}

/// Which stream of a RUN something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// Is told how a build goes.
pub trait Progress {
    /// A line of our own.
    fn step(&mut self, line: &str);
    /// What a RUN writes, as it comes.
    fn output(&mut self, said: Said, bytes: &[u8]);
    /// Something that the user should know, in one line.
    fn warning(&mut self, line: &str);
}

/// Finds images that are in the store.
///
/// # Errors
/// The store's.
pub fn find_local(store: &Store, name: &str) -> Result<Image> {
    if base::is_base(name) {
        return base::ensure(store);
    }
    Ok(store.resolve(name)?)
}

/// A build while it runs.
struct Builder<'b> {
    home: &'b Home,
    store: &'b Store,
    lease: Lease,
    options: &'b BuildOptions<'b>,
    ignore_text: Option<(String, String)>,
    /// What `SOURCE_DATE_EPOCH` says, seconds since 1970.
    source_date: Option<i64>,
    /// Build arguments that some ARG has asked for.
    consumed: BTreeSet<String>,
    /// The stages that are done.
    done: Vec<Option<Draft>>,
    _cache: CacheUse,
}

/// Builds an image.
///
/// # Errors
/// [`image_core::Error::Dockerfile`] for what the Dockerfile says wrongly or what is not supported; [`Error::Step`] with the line of a
/// step that failed; [`Error::Told`] with the exit code of a RUN that ended with one. No image is there then.
pub fn build(
    home: &Home,
    options: &BuildOptions<'_>,
    progress: &mut dyn Progress,
) -> Result<Image> {
    let store = home.images()?;
    let file = Dockerfile::parse(&options.dockerfile)?;
    let plan = stages::plan(&file, options)?;
    let source_date = options
        .arguments
        .iter()
        .find(|(name, _)| name == "SOURCE_DATE_EPOCH")
        .map(|(_, value)| {
            value
                .parse()
                .map_err(|_| image_core::Error::InvalidSourceDate(value.clone()))
        })
        .transpose()?;
    let source_date = match source_date {
        Some(seconds) => Some(seconds),
        None => source_date_of_environment()?,
    };
    let mut builder = Builder {
        home,
        store: &store,
        _cache: store.use_cache()?,
        lease: store.lease()?,
        options,
        ignore_text: ignore_file(options)?,
        source_date,
        consumed: BTreeSet::new(),
        done: vec![None; file.stages.len()],
    };
    let mut counter = step::Counter::new(&plan, options);
    for index in &plan.needed {
        let stage = &file.stages[*index];
        let draft = builder.stage(*index, stage, &plan, &mut counter, progress)?;
        builder.done[*index] = Some(draft);
    }
    let Some(mut draft) = builder.done[plan.target].take() else {
        return Err(Error::Unsupported("the target stage was not built".into()));
    };
    builder.labels(&mut draft, &mut counter, progress)?;
    let image = builder.finish(&draft)?;
    let unknown: Vec<&str> = options
        .arguments
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| {
            !builder.consumed.contains(*name)
                && !PREDEFINED.contains(name)
                && *name != "SOURCE_DATE_EPOCH"
        })
        .collect();
    if !unknown.is_empty() {
        progress.warning(&format!(
            "[Warning] One or more build-args [{}] were not consumed",
            unknown.join(" ")
        ));
    }
    progress.step(&format!("Successfully built {}", image.id.short()));
    for name in &options.names {
        progress.step(&format!("Successfully tagged {name}"));
    }
    Ok(image)
}

impl Builder<'_> {
    /// Gives what was built its names.
    fn finish(&self, draft: &Draft) -> Result<Image> {
        if draft.layers.is_empty() {
            return Err(Error::Unsupported(
                "the image would have no layers: RUN, COPY or ADD something".into(),
            ));
        }
        let image = draft.image();
        if draft.is_base() {
            for name in &self.options.names {
                self.store.tag(&image.id.to_string(), name)?;
            }
            return Ok(self.store.resolve(&image.id.to_string())?);
        }
        Ok(self.store.add_image(
            &self.lease,
            &draft.config,
            &draft.layers,
            &self.options.names,
        )?)
    }

    fn ignore(&self) -> Result<Ignore> {
        match &self.ignore_text {
            Some((name, text)) => Ignore::parse(text, name),
            None => Ok(Ignore::default()),
        }
    }

    /// The time of a step, seconds since 1970.
    fn now(&self) -> u64 {
        if let Some(seconds) = self.source_date {
            return u64::try_from(seconds).unwrap_or(0);
        }
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs())
    }
}

fn source_date_of_environment() -> Result<Option<i64>> {
    let Some(time) = source_date()? else {
        return Ok(None);
    };
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    Ok(Some(since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })))
}

/// `NAME.dockerignore` beside the Dockerfile, or the context's `.dockerignore`: its name and text.
fn ignore_file(options: &BuildOptions<'_>) -> Result<Option<(String, String)>> {
    let own = options.path.as_ref().map(|path| {
        let mut name = path.clone().into_os_string();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own
        .into_iter()
        .chain([options.context.join(".dockerignore")])
    {
        if !path.is_file() {
            continue;
        }
        let text = read_text(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok(Some((name.into_owned(), text)));
    }
    Ok(None)
}

fn read_text(path: &Path) -> Result<String> {
    use std::io::Read;
    let file = fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(Error::Unsupported(format!(
            "{} is longer than the limit of {FILE_MAX} bytes",
            path.display()
        )));
    }
    String::from_utf8(bytes)
        .map_err(|_| Error::Unsupported(format!("{} is not UTF-8 text", path.display())))
}
