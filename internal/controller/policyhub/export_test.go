package policyhub

import "terway.dev/terway/internal/policy/compile"

// Disturb tells the hub something that the feed knows nothing of.
func (s *Server) Disturb(d compile.Delta) error { return s.hub.Apply(d) }

// NodeOf is what the hub is told of an agent's pod.
var NodeOf = (*Server).nodeOf
