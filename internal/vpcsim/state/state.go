package state

// State is the simulated cloud.
type State struct {
	API
}
