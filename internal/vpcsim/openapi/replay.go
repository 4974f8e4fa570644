package openapi

import (
	"net/http"
	"sync"
	"time"
)

// maxSkew is how far a request's clock may be off, and how long a nonce is remembered.
const maxSkew = 15 * time.Minute

// replay refuses requests that are too old or were sent before. A nil *replay refuses none.
type replay struct {
	mu     sync.Mutex
	seen   map[string]time.Time
	pruned time.Time
}

func (r *replay) check(timestamp, nonce string, now time.Time) *Error {
	if r == nil {
		return nil
	}
	if timestamp == "" {
		return missing("Timestamp")
	}
	t, err := time.Parse("2006-01-02T15:04:05Z", timestamp)
	if err != nil {
		return errorf(http.StatusBadRequest, "InvalidTimeStamp.Format",
			"Specified time stamp or date value %q is not well formatted: want 2006-01-02T15:04:05Z.", timestamp)
	}
	if d := now.Sub(t); d > maxSkew || d < -maxSkew {
		return errorf(http.StatusBadRequest, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")
	}
	if nonce == "" {
		return missing("SignatureNonce")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.pruned) > maxSkew {
		for n, at := range r.seen {
			// A timestamp may be maxSkew ahead, so its nonce must be remembered for twice that.
			if now.Sub(at) > 2*maxSkew {
				delete(r.seen, n)
			}
		}
		r.pruned = now
	}
	if _, ok := r.seen[nonce]; ok {
		return errorf(http.StatusBadRequest, "SignatureNonceUsed", "Specified signature nonce was used already.")
	}
	r.seen[nonce] = now
	return nil
}
