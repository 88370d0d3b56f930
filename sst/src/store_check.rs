//! Start-up check of an object store: whether the manifest protocol is safe on it.
//!
//! 1. Sixteen puts with Create race for one fresh name: at most one is told that it won, and once
//!    an object is there one more is refused.
//! 2. A LIST shows the name at once, and so does one that begins behind another name.
//! 3. A GET returns the winner's bytes.
//! 4. The object is deleted and then gone.
//!
//! A client that repeats a put after a lost answer is told `AlreadyExists` of its own success, and a
//! server may refuse all puts of a name in whose folder something else happens (S3's 409); a round
//! in which nobody was told that it won is therefore run again under another name.
//!
//! Never here: a repair, or a setting that skips the check.

use auxo_proto::random::Random;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::time::Instant;

use crate::names;

const RACERS: usize = 16;
const ROUNDS: usize = 3;

/// The store must not be used, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Create does not exclude.
    #[error(
        "the store cannot create an object once: {0} of {RACERS} racing puts were told they did"
    )]
    ManyWinners(usize),
    /// Nobody was ever told that it won.
    #[error("the store reports no create as done, in {ROUNDS} rounds of {RACERS} racing puts")]
    NoWinner,
    /// A put with Create replaces what is there.
    #[error("the store lets a create replace an object that is there")]
    Replaced,
    /// A LIST lags behind a put.
    #[error("the store does not list an object at once after its put")]
    NotListed,
    /// A GET lags behind a put, or answers something else.
    #[error("the store does not return what the winner of a create wrote")]
    OtherBytes,
    /// A delete does nothing.
    #[error("the store does not delete: the check's object is still there")]
    NotDeleted,
    /// Who asks is not known there, or may not do what the check does.
    #[error("the store refuses the credentials, or a right that is needed: {0}")]
    Denied(Error),
    /// The place that should hold the objects is not there.
    #[error("the store's bucket is not there: {0}")]
    NoBucket(Error),
    /// It did not answer, or refused a request that it must serve.
    #[error("the store cannot be checked: {0}")]
    Store(Error),
    /// The deadline passed first.
    #[error("the store did not answer the check in time")]
    TimedOut,
}

impl From<Error> for CheckError {
    fn from(error: Error) -> Self {
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Self::Denied(error),
            error => Self::Store(error),
        }
    }
}

/// Proves that `store` creates once, lists at once and returns what was written.
///
/// * errors: [`CheckError`], naming what the store lacks; after `Store` and `TimedOut` it may be
///   run again.
/// * effects: some 20 requests on one object below `check/`, which is deleted again, also when the
///   store is refused; past the deadline, or when the future is dropped, it may stay.
pub async fn check(
    store: &dyn ObjectStore,
    random: &Random,
    deadline: Instant,
) -> Result<(), CheckError> {
    let checked = async {
        for _ in 0..ROUNDS {
            let name = names::store_check(random.next_u128());
            let outcome = race(store, &name).await;
            let cleaned = clean(store, &name).await;
            let won = outcome?;
            cleaned?;
            if won {
                return Ok(());
            }
        }
        Err(CheckError::NoWinner)
    };
    tokio::time::timeout_at(deadline, checked)
        .await
        .unwrap_or(Err(CheckError::TimedOut))
}

/// One round; whether a racer was told that it won.
async fn race(store: &dyn ObjectStore, name: &Path) -> Result<bool, CheckError> {
    let bytes_of = |racer: usize| Bytes::from(format!("{name} racer {racer}"));
    let answers = join_all((0..RACERS).map(|racer| create(store, name, bytes_of(racer)))).await;
    let mut winners = Vec::new();
    for (racer, answer) in answers.into_iter().enumerate() {
        if answer? {
            winners.push(racer);
        }
    }
    if winners.len() > 1 {
        return Err(CheckError::ManyWinners(winners.len()));
    }
    if create(store, name, bytes_of(RACERS)).await? {
        return match winners.is_empty() {
            true => Ok(false),
            false => Err(CheckError::Replaced),
        };
    }
    if !is_listed(store, name).await? {
        return Err(CheckError::NotListed);
    }
    let found = match store.get(name).await {
        Ok(answer) => answer.bytes().await?,
        Err(Error::NotFound { .. }) => return Err(CheckError::OtherBytes),
        Err(error) => return Err(error.into()),
    };
    let expected = match winners.first() {
        Some(winner) => found == bytes_of(*winner),
        None => (0..RACERS).any(|racer| found == bytes_of(racer)),
    };
    match expected {
        true => Ok(!winners.is_empty()),
        false => Err(CheckError::OtherBytes),
    }
}

/// Whether the put was told that it created the object.
async fn create(store: &dyn ObjectStore, name: &Path, bytes: Bytes) -> Result<bool, CheckError> {
    let options = PutOptions::from(PutMode::Create);
    let payload = PutPayload::from_bytes(bytes);
    match store.put_opts(name, payload, options).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. }) => Ok(false),
        Err(error @ Error::NotFound { .. }) => Err(CheckError::NoBucket(error)),
        Err(error) => Err(error.into()),
    }
}

/// Whether both kinds of LIST that the manifest protocol uses show the name.
async fn is_listed(store: &dyn ObjectStore, name: &Path) -> Result<bool, Error> {
    let folder = Path::from_iter(name.parts().take(name.parts_count() - 1));
    let below = folder.clone().join("0");
    let whole: Vec<_> = store.list(Some(&folder)).try_collect().await?;
    let behind: Vec<_> = store
        .list_with_offset(Some(&folder), &below)
        .try_collect()
        .await?;
    Ok([whole, behind]
        .iter()
        .all(|listed| listed.iter().any(|object| object.location == *name)))
}

async fn clean(store: &dyn ObjectStore, name: &Path) -> Result<(), CheckError> {
    match store.delete(name).await {
        Ok(()) | Err(Error::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    match store.head(name).await {
        Err(Error::NotFound { .. }) => Ok(()),
        Ok(_) => Err(CheckError::NotDeleted),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;
    use crate::faulty::{Fault, Faulty};
    use crate::local_store::LocalStore;

    async fn checked(store: &dyn ObjectStore) -> Result<(), CheckError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        check(store, &Random::seeded(7), deadline).await
    }

    async fn left_behind(store: &dyn ObjectStore) -> usize {
        let listed: Vec<_> = store.list(None).try_collect().await.unwrap();
        listed.len()
    }

    #[tokio::test]
    async fn good_stores_pass_and_keep_nothing() {
        let memory = InMemory::new();
        checked(&memory).await.unwrap();
        assert_eq!(left_behind(&memory).await, 0);

        let folder = tempfile::tempdir().unwrap();
        let local = LocalStore::open(folder.path()).unwrap();
        checked(&local).await.unwrap();
        assert_eq!(left_behind(&local).await, 0);
    }

    #[tokio::test]
    async fn a_round_without_a_winner_is_no_fault_of_the_store() {
        for puts in [vec![Fault::OwnExists], vec![Fault::Conflict; RACERS]] {
            let store = Faulty::new(Arc::new(InMemory::new())).puts(puts);
            checked(&store).await.unwrap();
            assert_eq!(left_behind(&store).await, 0);
        }
    }

    /// The sentence that refuses a store whose calls fail as the scripts say.
    async fn refused(puts: Vec<Fault>, gets: Vec<Fault>, lists: Vec<Fault>, expected: &str) {
        let memory = Arc::new(InMemory::new());
        let store = Faulty::new(memory.clone())
            .puts(puts)
            .gets(gets)
            .lists(lists);
        let error = checked(&store).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(left_behind(&*memory).await, 0, "{expected}");
    }

    #[tokio::test]
    async fn what_a_store_lacks_is_named_and_nothing_stays() {
        let all = |fault| vec![fault; 100];
        let good = || all(Fault::None);
        refused(
            all(Fault::Overwrite),
            good(),
            good(),
            "the store cannot create an object once: 16 of 16 racing puts were told they did",
        )
        .await;
        refused(
            [vec![Fault::None; RACERS], all(Fault::Overwrite)].concat(),
            good(),
            good(),
            "the store lets a create replace an object that is there",
        )
        .await;
        let no_winner = "the store reports no create as done, in 3 rounds of 16 racing puts";
        let silent = [vec![Fault::OwnExists], vec![Fault::None; RACERS]].concat();
        refused(silent.repeat(3), good(), good(), no_winner).await;
        let refusing = [vec![Fault::Conflict; RACERS], vec![Fault::None]].concat();
        refused(refusing.repeat(3), good(), good(), no_winner).await;
        let not_listed = "the store does not list an object at once after its put";
        refused(good(), good(), all(Fault::Stale), not_listed).await;
        let second_list = vec![Fault::None, Fault::Stale];
        refused(good(), good(), second_list, not_listed).await;
        let other_bytes = "the store does not return what the winner of a create wrote";
        refused(good(), vec![Fault::NotFound], good(), other_bytes).await;
        let forgotten = [vec![Fault::Forgotten], good()].concat();
        refused(
            forgotten,
            good(),
            good(),
            "the store cannot create an object once: 2 of 16 racing puts were told they did",
        )
        .await;
        refused(
            vec![Fault::Refused],
            good(),
            good(),
            "the store cannot be checked: Generic faulty error: the connection broke",
        )
        .await;
    }

    #[tokio::test]
    async fn a_store_that_looks_and_then_writes_is_refused() {
        let memory = Arc::new(InMemory::new());
        let store = Faulty::new(memory.clone()).puts(vec![Fault::CheckThenPut; 100]);
        let error = checked(&store).await.unwrap_err();
        assert!(matches!(error, CheckError::ManyWinners(2..)), "{error}");
        assert_eq!(left_behind(&*memory).await, 0);
    }

    #[tokio::test]
    async fn who_asks_and_where_are_faults_of_their_own() {
        let said = async |fault| {
            let store = Faulty::new(Arc::new(InMemory::new())).puts([fault]);
            checked(&store).await.unwrap_err()
        };
        assert!(matches!(said(Fault::Denied).await, CheckError::Denied(_)));
        assert!(matches!(
            said(Fault::NoBucket).await,
            CheckError::NoBucket(_)
        ));
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_not_waited_for() {
        let store = Faulty::new(Arc::new(InMemory::new())).puts([Fault::Hang]);
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = check(&store, &Random::seeded(7), deadline).await;
        assert!(matches!(error, Err(CheckError::TimedOut)));
    }
}
