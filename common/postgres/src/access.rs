//! All that a connection to a database needs, and the connection.

use std::time::Duration;

use tokio_postgres::Client;
use zeroize::Zeroizing;

use crate::address::{Address, Protection};
use crate::schema::SCHEMA;
use crate::tls::MakeTls;

/// How long one host may take to answer a connection. Longer waits for slow networks, and finds the next host later.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// How long sent bytes may stay unacknowledged, and a silent connection unanswered, before it counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a transaction of ours may take, and wait for a lock, and idle, before the server ends it: nothing that is
/// left behind by a connection that broke may hold a row for long.
const SESSION: &str = "SET statement_timeout = '15s'; SET lock_timeout = '5s'; \
    SET idle_in_transaction_session_timeout = '2s'";

/// How long the server may take for one transaction before the connection is given up. Above what the server itself
/// allows it, 15 s.
pub const ANSWER_MAX: Duration = Duration::from_secs(20);

/// A database, and how to get in. Clones are the same.
#[derive(Clone)]
pub struct Access {
    address: Address,
    password: Option<Zeroizing<String>>,
    tls: MakeTls,
}

impl Access {
    /// Under the name of `program`, which the server's lists of connections show. `authorities` (PEM) vouch for the
    /// server's certificate, where it is verified.
    ///
    /// # Errors
    /// When the authorities cannot be used, or are missing.
    pub fn new(
        mut address: Address,
        program: &str,
        password: Option<Zeroizing<String>>,
        authorities: Option<&[u8]>,
    ) -> Result<Self, String> {
        let authorities = match address.protection() {
            Protection::Verified => {
                Some(authorities.ok_or("sslmode=verify-full needs a file of authorities")?)
            }
            Protection::Encrypted | Protection::Plain => None,
        };
        address.config.application_name(program);
        Ok(Self { address, password, tls: MakeTls::new(authorities)? })
    }

    /// What operators call the database, in errors: without its user.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.name()
    }

    /// Connects. The client answers for as long as the runtime that this is called in runs.
    ///
    /// # Errors
    /// When no host takes writes, or the server refuses.
    pub async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = self.address.config.clone();
        config.connect_timeout(CONNECT_MAX).tcp_user_timeout(SILENCE_MAX);
        config.keepalives_idle(SILENCE_MAX).keepalives_interval(SILENCE_MAX / 5).keepalives_retries(5);
        if let Some(password) = &self.password {
            config.password(password.as_bytes());
        }
        let (client, connection) = config.connect(self.tls.clone()).await?;
        // Ends with the client; what it reports, the client's next call reports as well.
        tokio::spawn(async move { drop(connection.await) });
        client.batch_execute(&format!("SET search_path TO {SCHEMA}; {SESSION}")).await?;
        // What was answered must survive the server's crash; a stronger setting than that stays.
        let durable = "SELECT set_config('synchronous_commit', 'on', false)
            WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')";
        client.execute(durable, &[]).await?;
        Ok(client)
    }
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("database", &self.name()).finish_non_exhaustive()
    }
}
