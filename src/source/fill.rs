//! Fills the cache while the filesystem is being used already.
//!
//! A [`Fill`] runs in a thread of its own. A tar stream goes in; every byte is written to the data file and every
//! entry put into the growing tree, in one pass; out comes a finished cache entry, to which the filesystem goes
//! over. If that fails, nothing stays in the cache, and the filesystem keeps what has come.

use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::fs::File;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::export_limit::{ExportLimit, ExportPermit};
use super::place::Place;
use super::watched::Watched;
use super::{Context, Details, SourceError};
use crate::cache::{About, Cache, CacheError, Claim, Content, Data, DataWriter, Entry, Filler};
use crate::index::{
    DataFile, DemandSender, FileIdentity, Filesystem, Grower, GrowingTree, Order, write_index,
};
use crate::progress::{Phase, Progress};
use crate::tarfile::{EndMark, FileInput, Oddities, ScanError, Scanner, TarInput, Tee};

/// The pauses before a daemon's stream that broke off is asked for a second and a third time.
pub(super) const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// What came of a source.
pub(super) enum Opened {
    /// Its entry is in the cache.
    Entry(Box<Entry>),
    /// The same, with what is known of this source, whichever the entry was made from.
    Known(Box<Entry>, Box<Details>),
    /// It is being filled, or will be.
    Filling(Arc<Filesystem>, Box<Fill>),
}

impl Opened {
    /// Makes what an entry says of its source give way to what this source says.
    pub fn known_as(self, details: Details) -> Opened {
        match self {
            Opened::Entry(entry) => Opened::Known(entry, Box::new(details)),
            other => other,
        }
    }
}

/// A cache entry that is being made in the background. Dropped, it is given up.
pub(super) struct Fill {
    content: Content,
    details: Details,
    work: Arc<Work>,
    /// Held for as long as the filesystem may be used.
    entry: Option<Entry>,
    archive_in_place: Option<PathBuf>,
}

/// The thread that fills, once there is one.
struct Work {
    progress: Arc<Progress>,
    thread: Mutex<Option<JoinHandle<Outcome>>>,
    failure: OnceLock<Arc<SourceError>>,
    exports: Option<ExportLimit>,
}

/// What becomes of it: an error is told to all who wait.
type Outcome = Result<Entry, Arc<SourceError>>;

/// What the bytes of an entry come from.
pub(super) enum Bytes {
    /// They are written to a data file of the entry's own.
    Own(DataWriter),
    /// They stay in an archive of the user's.
    Borrowed(File, PathBuf, FileIdentity),
}

/// How a source is filled.
pub(super) struct Plan {
    pub content: Content,
    /// The source, as the user spelled it.
    pub source: OsString,
    /// What is kept with the entry.
    pub details: Details,
    pub place: Place,
    /// Whether what the stream is of may change while it is being read.
    pub lives: bool,
    pub order: Order,
    /// Who brings what the stream has not brought yet.
    pub demands: Option<DemandSender>,
    /// How long to wait for the work to be [`Job::ready`] or done.
    pub patience: Duration,
    /// Whether the entry is for this process alone.
    pub temporary: bool,
}

/// The work of a fill, in its thread.
pub(super) struct Job {
    source: OsString,
    details: Details,
    /// Where a stream's first entry belongs.
    first_place: Place,
    place: RefCell<Place>,
    lives: bool,
    /// Whether what was read so far is of more than one stream.
    pieced: Cell<bool>,
    temporary: bool,
    pub progress: Arc<Progress>,
    pub grower: Grower,
    cache: Cache,
    filler: Filler,
    /// Who waits for it to be [`Job::ready`], if anybody does.
    ready: Option<SyncSender<()>>,
}

/// The entry of a content, or the right to make it, for which this waits if another process has it.
pub(super) fn claim(cache: &Cache, content: Content, progress: &Progress) -> Result<Claim, SourceError> {
    Ok(cache.fill(content, &mut |_| {
        progress.enter(Phase::Waiting);
        if progress.check().is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?)
}

/// Opens the entry of a plan's content, or starts to fill it: `bytes` says where the bytes go, `work` brings them.
pub(super) fn open(
    plan: Plan,
    context: &Context<'_>,
    bytes: impl FnOnce(&Filler) -> Result<Bytes, SourceError>,
    work: impl FnOnce(Job, Bytes) -> Result<Entry, SourceError> + Send + 'static,
) -> Result<Opened, SourceError> {
    let filler = match claim(context.cache, plan.content.clone(), context.progress)? {
        Claim::Entry(entry) => return Ok(Opened::Entry(Box::new(entry))),
        Claim::Filler(filler) => filler,
    };
    let bytes = bytes(&filler)?;
    let (filesystem, grower) =
        Filesystem::filling(plan.order, bytes.readable(&filler)?, plan.demands.clone());
    spool(&plan, &filler, &grower);
    let (ready, wait_ready) = sync_channel(1);
    let mut fill = Fill::of(&plan, context);
    fill.archive_in_place = bytes.in_place();
    let patience = plan.patience;
    let job = Job::new(plan, context.cache.clone(), context.progress, grower.clone(), filler, Some(ready));
    fill.work.begin(grower, move || work(job, bytes))?;
    match wait_ready.recv_timeout(patience) {
        Ok(()) | Err(RecvTimeoutError::Timeout) => Ok(Opened::Filling(filesystem, Box::new(fill))),
        Err(RecvTimeoutError::Disconnected) => {
            fill.wait()?;
            match fill.entry.take() {
                Some(entry) => Ok(Opened::Entry(Box::new(entry))),
                None => Ok(Opened::Filling(filesystem, Box::new(fill))),
            }
        }
    }
}

/// As [`open`], but what is not in the cache is filled only once somebody asks for it.
pub(super) fn open_dormant(
    plan: Plan,
    context: &Context<'_>,
    bytes: impl FnOnce(&Filler) -> Result<Bytes, SourceError> + Send + 'static,
    work: impl FnOnce(Job, Bytes) -> Result<Entry, SourceError> + Send + 'static,
) -> Result<Opened, SourceError> {
    if !plan.temporary
        && let Some(entry) = context.cache.lookup(plan.content.key())?
    {
        return Ok(Opened::Entry(Box::new(entry)));
    }
    let fill = Fill::of(&plan, context);
    let (cache, progress) = (context.cache.clone(), Arc::clone(context.progress));
    let (order, demands) = (plan.order, plan.demands.clone());
    let filling = Arc::clone(&fill.work);
    let filesystem = Filesystem::dormant(order, demands, move |grower| {
        let lost = grower.clone();
        let begun = filling.begin(grower.clone(), move || {
            let filler = match claim(&cache, plan.content.clone(), &progress)? {
                Claim::Entry(entry) => {
                    grower.replace(Arc::clone(entry.index()) as _, entry.open_data()?);
                    return Ok(entry);
                }
                Claim::Filler(filler) => filler,
            };
            let bytes = bytes(&filler)?;
            grower.store_in(bytes.readable(&filler)?);
            spool(&plan, &filler, &grower);
            work(Job::new(plan, cache, &progress, grower, filler, None), bytes)
        });
        if let Err(error) = begun {
            filling.fail(Arc::new(error));
            lost.lose();
        }
    });
    Ok(Opened::Filling(filesystem, Box::new(fill)))
}

/// As [`open_dormant`], for an entry that `work` makes on its own, to which the filesystem goes over as a whole.
pub(super) fn open_late(
    content: Content,
    details: Details,
    context: &Context<'_>,
    work: impl FnOnce(&Grower) -> Result<Entry, SourceError> + Send + 'static,
) -> Opened {
    let progress = Arc::clone(context.progress);
    let work_of = Work { progress, thread: Mutex::default(), failure: OnceLock::new(), exports: None };
    let fill = Fill { content, details, archive_in_place: None, work: Arc::new(work_of), entry: None };
    let filling = Arc::clone(&fill.work);
    let filesystem = Filesystem::dormant(Order::Any, None, move |grower| {
        let lost = grower.clone();
        let begun = filling.begin(grower.clone(), move || {
            let entry = work(&grower)?;
            grower.replace(Arc::clone(entry.index()) as _, entry.open_data()?);
            Ok(entry)
        });
        if let Err(error) = begun {
            filling.fail(Arc::new(error));
            lost.lose();
        }
    });
    Opened::Filling(filesystem, Box::new(fill))
}

/// Puts the content that a scanner is just before into a file of its own, if it is large.
pub(super) fn set_apart<R: BufRead>(scanner: &mut Scanner<Tee<R, DataWriter>>) -> Result<(), CacheError> {
    let content = scanner.position()..scanner.content_end();
    scanner.input_mut().writer_mut().set_apart(content)
}

/// Says where to put the bytes of what is wished for.
fn spool(plan: &Plan, filler: &Filler, grower: &Grower) {
    if plan.demands.is_some() {
        match filler.create_scratch() {
            Ok(file) => grower.spool_in(file),
            Err(error) => tracing::warn!("all files are read from the stream alone: {error}"),
        }
    }
}

impl Bytes {
    /// Where they stay, if it is with the user.
    fn in_place(&self) -> Option<PathBuf> {
        match self {
            Bytes::Own(_) => None,
            Bytes::Borrowed(_, path, _) => Some(path.clone()),
        }
    }

    /// What is read of them while they are being written.
    fn readable(&self, filler: &Filler) -> Result<DataFile, SourceError> {
        match self {
            Bytes::Own(_) => Ok(filler.open_data()?),
            Bytes::Borrowed(file, path, identity) => {
                let file = file.try_clone().map_err(|e| SourceError::read(path, e))?;
                Ok(DataFile::borrowed(file, *identity))
            }
        }
    }
}

impl Work {
    fn begin(
        self: &Arc<Work>,
        grower: Grower,
        work: impl FnOnce() -> Result<Entry, SourceError> + Send + 'static,
    ) -> Result<(), SourceError> {
        self.progress.enter(Phase::Reading);
        // Held meanwhile, so that whoever waits for the thread finds it.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let told = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("fill".into()).spawn(move || {
            let turn = told.turn(&grower);
            let result = turn.and_then(|_turn| work()).map_err(Arc::new);
            match &result {
                Ok(_) => told.progress.enter(Phase::Done),
                Err(error) => {
                    told.fail(Arc::clone(error));
                    // Whoever sees what is left sees why.
                    match **error {
                        SourceError::Unavailable { .. } => leave_empty(&grower, error),
                        _ => grower.lose(),
                    }
                }
            }
            result
        });
        *thread = Some(spawned.map_err(SourceError::Thread)?);
        Ok(())
    }

    /// Waits until one more may be filled.
    fn turn(&self, grower: &Grower) -> Result<Option<ExportPermit>, SourceError> {
        let turn = self.exports.as_ref().map(|exports| exports.acquire(&self.progress, || grower.alive()));
        Ok(turn.transpose()?)
    }

    /// Writes down why nothing more comes.
    fn fail(&self, error: Arc<SourceError>) {
        let _ = self.failure.set(error);
    }

    fn take_thread(&self) -> Option<JoinHandle<Outcome>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Leaves an empty root directory in the place of what is not there.
fn leave_empty(grower: &Grower, why: &SourceError) {
    tracing::warn!("{why}");
    let mut tree = GrowingTree::default();
    match tree.finish() {
        Ok(()) => grower.replace(Arc::new(tree), Vec::new()),
        Err(_) => grower.lose(),
    }
}

impl Fill {
    fn of(plan: &Plan, context: &Context<'_>) -> Fill {
        let progress = Arc::clone(context.progress);
        Fill {
            content: plan.content.clone(),
            details: plan.details.clone(),
            work: Arc::new(Work {
                progress,
                thread: Mutex::default(),
                failure: OnceLock::new(),
                exports: context.exports.cloned(),
            }),
            entry: None,
            archive_in_place: None,
        }
    }

    /// Waits until the entry is in the cache, or is known never to be. One that has not been begun is not waited for.
    pub fn wait(&mut self) -> Result<(), SourceError> {
        if let Some(thread) = self.work.take_thread() {
            let result = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            self.entry = Some(result.map_err(SourceError::Shared)?);
        }
        Ok(())
    }

    /// What the entry will hold.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// What is known of it.
    pub fn details(&self) -> &Details {
        &self.details
    }

    /// Why it came to nothing, if it did.
    pub fn failure(&self) -> Option<&Arc<SourceError>> {
        self.work.failure.get()
    }

    /// The archive whose bytes stay where they are, if they do.
    pub fn archive_in_place(&self) -> Option<&Path> {
        self.archive_in_place.as_deref()
    }
}

impl Drop for Fill {
    fn drop(&mut self) {
        let Some(thread) = self.work.take_thread() else { return };
        self.work.progress.cancel();
        if let Ok(Err(error)) = thread.join() {
            tracing::debug!("given up: {error}");
        }
    }
}

/// Why the tree stopped growing.
enum Stopped {
    /// The stream is not what it should be; another one may be.
    Stream(ScanError),
    /// Nothing helps.
    For(SourceError),
}

impl Job {
    fn new(
        plan: Plan,
        cache: Cache,
        progress: &Arc<Progress>,
        grower: Grower,
        filler: Filler,
        ready: Option<SyncSender<()>>,
    ) -> Job {
        let Plan { source, details, place: first_place, lives, temporary, .. } = plan;
        let (place, pieced) = (RefCell::new(first_place.clone()), Cell::new(false));
        let progress = Arc::clone(progress);
        Job {
            source,
            details,
            first_place,
            place,
            lives,
            pieced,
            temporary,
            progress,
            grower,
            cache,
            filler,
            ready,
        }
    }

    /// From here on somebody may look: what fails at once has not failed.
    pub fn ready(&self) {
        if let Some(ready) = &self.ready {
            let _ = ready.try_send(());
        }
    }

    /// Where the stream's entries belong, if that was not known when the work was planned.
    pub fn put_in(&mut self, place: Place) {
        self.first_place = place;
        self.place.replace(self.first_place.clone());
    }

    /// Reads a stream to its end. One that breaks off is asked for again after each of the `pauses`. It has to bring the same
    /// bytes, but for what [lives](Plan::lives): there a stream that differs brings what is lacking.
    pub fn run<R: BufRead>(
        self,
        writer: DataWriter,
        end_mark: EndMark,
        pauses: &[Duration],
        stream: impl FnMut() -> Result<R, SourceError>,
    ) -> Result<Entry, SourceError> {
        let (disk, grower) = (writer.disk()?, self.grower.clone());
        let result = self.read(writer, end_mark, pauses, stream);
        if let Err(error) = &result
            && error.is_out_of_room()
        {
            // A session may go on for days with what has come, and nobody else could write anything meanwhile.
            grower.discard_fetched();
            if let Err(error) = disk.discard() {
                tracing::warn!("what has come stays on the disk until the unmount: {error}");
            }
        }
        result
    }

    fn read<R: BufRead>(
        self,
        writer: DataWriter,
        end_mark: EndMark,
        pauses: &[Duration],
        mut stream: impl FnMut() -> Result<R, SourceError>,
    ) -> Result<Entry, SourceError> {
        let mut scanner = Scanner::new(Tee::new(self.watch(stream()?), writer), end_mark);
        let mut pauses = pauses.iter();
        while let Err(stopped) = self.grow(&mut scanner, |scanner| Ok(set_apart(scanner)?)) {
            let mut latest = match stopped {
                Stopped::Stream(error) => self.scan_error(error),
                Stopped::For(error) => return Err(error),
            };
            loop {
                let pause = match pauses.next() {
                    Some(pause) if !latest.is_final() => *pause,
                    _ => return Err(latest),
                };
                tracing::warn!("{latest}; trying again");
                self.pause(pause)?;
                match self.go_on(&mut stream, &mut scanner) {
                    Ok(()) => break,
                    Err(error) => latest = error,
                }
            }
        }
        let oddities = scanner.oddities().clone();
        let data = Data::Own(scanner.into_input().into_writer().finish());
        self.publish(data, oddities)
    }

    /// Indexes a tar where it lies: its bytes are not copied.
    pub fn run_in_place(
        self,
        file: &File,
        path: PathBuf,
        identity: FileIdentity,
    ) -> Result<Entry, SourceError> {
        self.progress.expect_bytes(identity.size);
        let input = self.watch(FileInput::new(file, identity.size));
        let mut scanner = Scanner::new(input, EndMark::Optional);
        self.grow(&mut scanner, |_| Ok(())).map_err(|stopped| match stopped {
            Stopped::Stream(error) => self.scan_error(error),
            Stopped::For(error) => error,
        })?;
        if FileIdentity::of(file).map_err(|e| SourceError::read(&path, e))? != identity {
            return Err(SourceError::ChangedMeanwhile(path));
        }
        let oddities = scanner.oddities().clone();
        self.publish(Data::Borrowed { path, identity }, oddities)
    }

    fn watch<R>(&self, inner: R) -> Watched<R> {
        Watched::filling(inner, &self.progress, &self.grower)
    }

    /// Puts what the scanner reads into the tree; `header` is called when it is just before the content of an entry.
    fn grow<R: TarInput>(
        &self,
        scanner: &mut Scanner<R>,
        header: impl Fn(&mut Scanner<R>) -> Result<(), SourceError>,
    ) -> Result<(), Stopped> {
        let grown = |result: Result<(), crate::index::GrowError>| {
            result.map_err(|e| Stopped::For(SourceError::content(&self.source, e)))
        };
        loop {
            let confirmed = scanner.content_end();
            let entry = scanner.next_entry().map_err(Stopped::Stream)?;
            // Only a good header shows that what stands before it is not the words of a failing daemon.
            self.grower.confirm(confirmed);
            match entry {
                None if self.place.borrow().is_missing() => {
                    return Err(Stopped::For(SourceError::NoSuchPart));
                }
                None => return grown(self.grower.finish()),
                Some(entry) => {
                    header(scanner).map_err(Stopped::For)?;
                    self.progress.add_entries(1);
                    let put = self.place.borrow_mut().put(entry);
                    if let Some(entry) = put {
                        grown(self.grower.insert(entry))?;
                    }
                }
            }
        }
    }

    /// Lets a scanner go on with another stream.
    fn go_on<R: BufRead>(
        &self,
        stream: &mut impl FnMut() -> Result<R, SourceError>,
        scanner: &mut Scanner<Tee<Watched<R>, DataWriter>>,
    ) -> Result<(), SourceError> {
        if !self.pieced.get() {
            match self.resume(stream()?, scanner) {
                Err(SourceError::Different(_)) if self.lives => {}
                resumed => return resumed,
            }
        }
        self.resume_from(stream()?, scanner)
    }

    /// Lets a scanner go on with a stream that is another one than the last, from its front.
    fn resume_from<R: BufRead>(
        &self,
        stream: R,
        scanner: &mut Scanner<Tee<Watched<R>, DataWriter>>,
    ) -> Result<(), SourceError> {
        tracing::warn!("it has changed meanwhile: what is still lacking is taken from the new export");
        let readable = scanner.position();
        let tee = scanner.input_mut();
        tee.writer_mut().rewind(readable)?;
        tee.replace(self.watch(stream));
        scanner.resume_from();
        self.grower.resume_from(readable);
        self.place.replace(self.first_place.clone());
        self.pieced.set(true);
        Ok(())
    }

    /// Lets a scanner go on with another stream, from where the last one was good.
    fn resume<R: BufRead>(
        &self,
        mut stream: R,
        scanner: &mut Scanner<Tee<Watched<R>, DataWriter>>,
    ) -> Result<(), SourceError> {
        let done = scanner.position();
        self.pass_over(&mut stream, done)?;
        let tee = scanner.input_mut();
        tee.writer_mut().rewind(done)?;
        tee.replace(self.watch(stream));
        // What is just behind may be a large content, of which nothing is left.
        Ok(set_apart(scanner)?)
    }

    /// Reads the first `done` bytes of a stream, which have to be those that the data file has already.
    fn pass_over(&self, stream: &mut impl BufRead, done: u64) -> Result<(), SourceError> {
        let data = self.filler.open_data()?;
        let mut known = Vec::new();
        let mut at = 0;
        while at < done {
            self.progress.check()?;
            let here = stream.fill_buf().map_err(|e| SourceError::stream(&self.source, e))?;
            self.grower.alive();
            let n = here.len().min(usize::try_from(done - at).unwrap_or(usize::MAX));
            known.resize(n, 0);
            let same = data.read_exact_at(&mut known, at).is_ok() && known == here[..n];
            if n == 0 || !same {
                return Err(SourceError::Different(self.source.clone()));
            }
            stream.consume(n);
            at += n as u64;
        }
        Ok(())
    }

    /// Waits, unless nobody wants it any more.
    pub fn pause(&self, pause: Duration) -> Result<(), SourceError> {
        const STEP: Duration = Duration::from_millis(50);
        for _ in 0..pause.as_millis() / STEP.as_millis() {
            self.progress.check()?;
            std::thread::sleep(STEP);
        }
        Ok(())
    }

    fn publish(self, data: Data, mut oddities: Oddities) -> Result<Entry, SourceError> {
        self.progress.enter(Phase::Finishing);
        let Job { source, mut details, grower, cache, filler, temporary, .. } = self;
        grower.with_tree(|tree| oddities.add(tree.oddities()));
        if !oddities.is_empty() {
            tracing::warn!("{}: {oddities}", source.display());
            details.notes.push(oddities.to_string());
        }
        let index = filler.create_index()?;
        let key = filler.key();
        let summary = grower.with_tree(|tree| write_index(tree, key.as_bytes(), index));
        let summary = summary.map_err(|e| filler.index_error(e))?;
        let about = About {
            source,
            entries: summary.entries,
            bytes: summary.bytes,
            details: serde_json::to_value(details).unwrap_or_default(),
        };
        let entry = match temporary {
            true => filler.publish_temporary(about, vec![data])?,
            false => filler.publish(about, vec![data])?,
        };
        grower.complete(Arc::clone(entry.index()) as _, entry.open_data()?);
        cache.trim();
        Ok(entry)
    }

    fn scan_error(&self, error: ScanError) -> SourceError {
        match error {
            ScanError::Io(error) => SourceError::stream(&self.source, error),
            other => SourceError::content(&self.source, other),
        }
    }
}
