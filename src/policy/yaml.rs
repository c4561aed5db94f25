//! YAML with positions: a tree that remembers where each value stands, and a decoder that collects every mistake.
