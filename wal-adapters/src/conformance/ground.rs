//! What the cases share: the region under test, a leader that makes true frames, and ways to say what
//! was seen. Never here: a case.

use std::sync::Arc;
use std::time::Duration;

use auxo_proto::ids::Term;
use auxo_proto::random::Random;
use bytes::Bytes;

use super::{Done, Scale, Stop, Subject, Trouble};
use crate::{Appending, Frame, FrameKind, Offset, Placed, Region, RegionId};

/// What a case stands on.
pub(super) struct Ground {
    pub(super) subject: Arc<dyn Subject>,
    /// The region this case is about; not made yet.
    pub(super) id: RegionId,
    pub(super) random: Random,
    pub(super) scale: Scale,
}

impl Ground {
    /// Makes the case's region and opens it.
    pub(super) async fn region(&self) -> Result<Arc<dyn Region>, Stop> {
        let wal = self.subject.join().await?;
        wal.create(self.id).await?;
        Ok(wal.open(self.id).await?)
    }

    /// The region through one more user.
    pub(super) async fn join(&self) -> Result<Arc<dyn Region>, Stop> {
        Ok(self.subject.join().await?.open(self.id).await?)
    }

    /// The region after every user ended.
    pub(super) async fn restart(&self) -> Result<Arc<dyn Region>, Stop> {
        self.subject.leave().await?;
        self.join().await
    }

    pub(super) async fn trouble(&self, trouble: Trouble) -> Done {
        self.subject.trouble(self.id, trouble).await
    }

    /// Random bytes; long ones repeat what they begin with.
    pub(super) fn bytes(&self, length: usize) -> Bytes {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length.min(4096) {
            bytes.extend_from_slice(&self.random.next_u64().to_le_bytes());
        }
        while bytes.len() < length {
            bytes.extend_from_within(..bytes.len().min(length - bytes.len()));
        }
        bytes.truncate(length);
        bytes.into()
    }

    pub(super) fn writer(&self, epoch: u64, inc: u32, writer: u64) -> Writer {
        Writer {
            claim: Frame {
                kind: FrameKind::Claim,
                incarnation: self.id.incarnation,
                term: Term { epoch, inc },
                writer,
                n: 0,
                prev: 0,
                prev_n: 0,
                payload: Bytes::new(),
            },
            n: 0,
            prev: 0,
            prev_n: 0,
        }
    }
}

/// Makes the frames of one leader, with true witnesses.
pub(super) struct Writer {
    pub(super) claim: Frame,
    pub(super) n: u64,
    pub(super) prev: Offset,
    pub(super) prev_n: u64,
}

impl Writer {
    pub(super) fn frame(&mut self, kind: FrameKind, payload: impl Into<Bytes>) -> Frame {
        self.n += 1;
        Frame {
            kind,
            n: self.n,
            prev: self.prev,
            prev_n: self.prev_n,
            payload: payload.into(),
            ..self.claim.clone()
        }
    }

    pub(super) fn rows(&mut self, payload: impl Into<Bytes>) -> Frame {
        self.frame(FrameKind::Rows, payload)
    }

    /// The writer has read all up to the offset of its frame n, that frame included.
    pub(super) fn accounted(&mut self, offset: Offset, n: u64) {
        self.prev = offset + 1;
        self.prev_n = n;
    }

    /// Claims the region and accounts the Claim.
    pub(super) async fn take_over(&mut self, region: &Arc<dyn Region>) -> Result<Offset, Stop> {
        let at = at(region.append(self.claim.clone())).await?;
        self.accounted(at, 0);
        Ok(at)
    }

    /// Appends rows and accounts them.
    pub(super) async fn send(
        &mut self,
        region: &Arc<dyn Region>,
        payload: impl Into<Bytes>,
    ) -> Result<(Offset, Frame), Stop> {
        let frame = self.rows(payload);
        let at = at(region.append(frame.clone())).await?;
        self.accounted(at, frame.n);
        Ok((at, frame))
    }
}

/// The place of an append that must succeed.
pub(super) async fn at(appending: Appending) -> Result<Offset, Stop> {
    match appending.await? {
        Placed::At(offset) => Ok(offset),
        Placed::Somewhere => Err(Stop::failed("an append without trouble said Somewhere")),
    }
}

/// Every frame from `from` to the end as it is now.
pub(super) async fn read_all(
    region: &Arc<dyn Region>,
    from: Offset,
) -> Result<Vec<(Offset, Frame)>, Stop> {
    let end = region.end().await?.offset;
    let mut frames = Vec::new();
    let mut next = from;
    while next < end {
        let chunk = region.read(next, 1 << 20, Duration::ZERO).await?;
        let inside = chunk
            .frames
            .iter()
            .all(|(offset, _)| (next..chunk.next).contains(offset));
        ensure(inside, || format!("a read from {next} left its range"))?;
        ensure(chunk.next > next, || {
            format!("a read from {next} below the end {end} found nothing")
        })?;
        next = chunk.next;
        frames.extend(chunk.frames);
    }
    let rising = frames.windows(2).all(|pair| pair[0].0 < pair[1].0);
    ensure(rising, || "offsets of a read do not rise".to_owned())?;
    Ok(frames)
}

pub(super) fn ensure(held: bool, what: impl FnOnce() -> String) -> Done {
    match held {
        true => Ok(()),
        false => Err(Stop::Failed(what())),
    }
}

/// Both lists hold the same frames at the same places; says where they part.
pub(super) fn ensure_same(seen: &[(Offset, Frame)], sent: &[(Offset, Frame)]) -> Done {
    let parted = seen.iter().zip(sent).find(|(seen, sent)| seen != sent);
    if let Some(((at, seen), (sent_at, sent))) = parted {
        return Err(Stop::failed(format!(
            "at {at} there is number {} of {}, where at {sent_at} number {} of {} was expected",
            seen.n, seen.writer, sent.n, sent.writer
        )));
    }
    ensure(seen.len() == sent.len(), || {
        format!("{} frames where {} were expected", seen.len(), sent.len())
    })
}

/// The middle of several measurements, so that one hiccup of the machine decides nothing.
pub(super) fn median(mut measured: Vec<Duration>) -> Duration {
    measured.sort_unstable();
    measured
        .get(measured.len() / 2)
        .copied()
        .unwrap_or_default()
}
