//! A request of the kernel's that is answered later, by another thread.

use std::sync::Arc;
use std::time::Instant;

use fuser::{
    INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek,
    ReplyOpen, ReplyXattr, Request,
};
use rustix::io::Errno;

use super::Adapter;
use crate::fuse::caller::Caller;
use crate::fuse::errno;
use crate::fuse::node::Node;
use crate::fuse::operations::Operations;
use crate::fuse::view::ViewError;
use crate::fuse::waiting::Waiting;

/// A reply, of whatever kind, that can be an error.
pub(super) trait Refusable: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refusable {
    ($($reply:ty),+) => {$(
        impl Refusable for $reply {
            fn refuse(self, errno: Errno) {
                self.error(fuser::Errno::from_i32(errno.raw_os_error()));
            }
        }
    )+};
}

refusable!(
    ReplyAttr,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyXattr
);

/// The error number for an error, and a line in the log if it is a fault.
fn report(view: &dyn Operations, node: Node, error: &ViewError) -> Errno {
    if errno::is_fault(error) {
        tracing::error!("{}: {error}", view.describe(node));
    }
    errno::errno(error)
}

impl Adapter {
    /// Asks a question about `ino`, and replies now, or later if the answer has not come yet.
    ///
    /// `caller` is who made the request: the waiting ends when it is to end.
    pub(super) fn answer<R: Refusable, T>(
        &self,
        caller: &Request,
        ino: INodeNo,
        mut reply: R,
        mut ask: impl FnMut(&dyn Operations, &mut R) -> Result<T, ViewError> + Send + 'static,
        give: impl FnOnce(R, T) + Send + 'static,
    ) {
        let node = Node(ino.0);
        // Before the question, so that whatever comes after it is noticed.
        let generation = self.view.generation(node);
        match (ask(&*self.view, &mut reply), &self.waiting) {
            (Ok(answer), _) => give(reply, answer),
            (Err(error), Some(room)) if error.is_not_yet() => {
                let (view, caller) = (Arc::clone(&self.view), Caller::new(caller.pid()));
                return room.park(Box::new(Pending { view, node, caller, reply, ask, give }), generation);
            }
            (Err(error), _) => reply.refuse(report(&*self.view, node, &error)),
        }
        if let Some(polling) = &self.polling {
            polling.answered();
        }
    }
}

/// A question that has no answer yet, and what it takes to reply once it has one.
struct Pending<R, Ask, Give> {
    view: Arc<dyn Operations>,
    node: Node,
    caller: Caller,
    reply: R,
    ask: Ask,
    give: Give,
}

impl<R, T, Ask, Give> Waiting for Pending<R, Ask, Give>
where
    R: Refusable,
    Ask: FnMut(&dyn Operations, &mut R) -> Result<T, ViewError> + Send + 'static,
    Give: FnOnce(R, T) + Send + 'static,
{
    fn generation(&self) -> u64 {
        self.view.generation(self.node)
    }

    fn last_progress(&self) -> Option<Instant> {
        self.view.last_progress(self.node)
    }

    fn ask(mut self: Box<Self>) -> Option<Box<dyn Waiting>> {
        match (self.ask)(&*self.view, &mut self.reply) {
            Ok(answer) => (self.give)(self.reply, answer),
            Err(error) if error.is_not_yet() => return Some(self),
            Err(error) => self.reply.refuse(report(&*self.view, self.node, &error)),
        }
        None
    }

    fn caller(&self) -> Caller {
        self.caller
    }

    fn refuse(self: Box<Self>, errno: Errno) {
        self.reply.refuse(errno);
    }

    fn describe(&self) -> String {
        self.view.describe(self.node)
    }
}
