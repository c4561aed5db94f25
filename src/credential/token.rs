//! Access tokens as JWTs: RFC 7515, RFC 7519, RFC 8725, RFC 9068.
