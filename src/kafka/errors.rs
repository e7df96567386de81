//! What an error of the Kafka library means for the client that reports it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// The meaning of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The client is in a fatal state and never recovers. It has to be replaced.
    Fatal,
    /// No broker is connected. The library connects again by itself.
    AllBrokersDown,
    /// The position to read at does not exist: the log was trimmed, truncated or recreated.
    OutsideLog,
    /// The partition has no leader, or its broker is away. The same call may succeed later.
    NoLeader,
    /// The topic does not exist, as far as the broker knows.
    NoTopic,
    /// What is at the position cannot be read, however often it is tried: its checksum, format or size.
    Unreadable,
    /// What is at the position cannot be read by this build of the library, but by another: its codec
    /// is not built in, or its format is newer.
    UnreadableHere,
    /// The consumer group does not take this member: its settings do not fit those of the other
    /// members or of the broker, or it may not join.
    GroupRefuses,
    /// The broker refuses the login or the certificate, or shows a bad one. Records only time out.
    Refused,
    /// An access rule is missing for the topic or the cluster.
    Forbidden,
    /// Anything else. The operation failed.
    Other,
}

impl Meaning {
    pub(crate) fn of(error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => Self::Fatal,
            Some(RDKafkaErrorCode::AllBrokersDown) => Self::AllBrokersDown,
            // With `auto.offset.reset=error` the library reports the first. The other two are
            // causes that it may report instead.
            Some(
                RDKafkaErrorCode::AutoOffsetReset
                | RDKafkaErrorCode::OffsetOutOfRange
                | RDKafkaErrorCode::LogTruncation,
            ) => Self::OutsideLog,
            Some(
                RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::ReplicaNotAvailable
                | RDKafkaErrorCode::BrokerTransportFailure,
            ) => Self::NoLeader,
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => Self::NoTopic,
            Some(
                RDKafkaErrorCode::NotImplemented
                | RDKafkaErrorCode::UnsupportedForMessageFormat
                | RDKafkaErrorCode::UnsupportedCompressionType,
            ) => Self::UnreadableHere,
            Some(
                RDKafkaErrorCode::BadMessage
                | RDKafkaErrorCode::BadCompression
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::MessageSizeTooLarge,
            ) => Self::Unreadable,
            Some(
                RDKafkaErrorCode::InconsistentGroupProtocol
                | RDKafkaErrorCode::InvalidSessionTimeout
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::GroupMaxSizeReached,
            ) => Self::GroupRefuses,
            Some(
                RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::SSL,
            ) => Self::Refused,
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed,
            ) => Self::Forbidden,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(meaning: Meaning, codes: &[RDKafkaErrorCode]) {
        for code in codes {
            for error in [
                KafkaError::MessageConsumption(*code),
                KafkaError::MessageProduction(*code),
                KafkaError::Global(*code),
            ] {
                assert_eq!(Meaning::of(&error), meaning, "{error}");
            }
        }
    }

    #[test]
    fn each_error_has_one_meaning() {
        use RDKafkaErrorCode as Code;
        check(Meaning::Fatal, &[Code::Fatal]);
        check(Meaning::AllBrokersDown, &[Code::AllBrokersDown]);
        let outside = [Code::AutoOffsetReset, Code::OffsetOutOfRange, Code::LogTruncation];
        check(Meaning::OutsideLog, &outside);
        check(Meaning::NoLeader, &[Code::NotLeaderForPartition, Code::LeaderNotAvailable]);
        check(Meaning::NoLeader, &[Code::ReplicaNotAvailable, Code::BrokerTransportFailure]);
        check(Meaning::NoTopic, &[Code::UnknownTopicOrPartition, Code::UnknownTopic]);
        check(Meaning::NoTopic, &[Code::UnknownPartition]);
        let refuses = [Code::InconsistentGroupProtocol, Code::GroupAuthorizationFailed];
        check(Meaning::GroupRefuses, &refuses);
    }

    /// A reader that took a damaged record for the end of the log would report a trimmed log, and
    /// one that tried it again without end would stall its partition in silence.
    #[test]
    fn what_cannot_be_read_is_no_end_and_no_outage() {
        use RDKafkaErrorCode as Code;
        check(Meaning::Unreadable, &[Code::BadMessage, Code::InvalidMessage, Code::BadCompression]);
        let here = [Code::NotImplemented, Code::UnsupportedCompressionType];
        check(Meaning::UnreadableHere, &here);
        check(Meaning::Unreadable, &[Code::MessageSizeTooLarge, Code::InvalidMessageSize]);
        check(Meaning::Other, &[Code::MessageTimedOut, Code::OperationTimedOut]);
        check(Meaning::Forbidden, &[Code::TopicAuthorizationFailed]);
        check(Meaning::Other, &[Code::Unknown]);
        assert_eq!(Meaning::of(&KafkaError::Canceled), Meaning::Other);
    }
}
