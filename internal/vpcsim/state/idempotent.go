package state

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
)

// tokenLife is how long an answer is remembered for its ClientToken.
const tokenLife = 24 * time.Hour

// rememberedAnswer is the answer to a call with a ClientToken.
type rememberedAnswer struct {
	Parameters string // hash
	Answer     json.RawMessage
	At         time.Time
}

// once executes a call with a ClientToken at most once: the same token and parameters return
// the first answer again, the same token with other parameters is an error. A failed call
// leaves no trace, so that it can be retried. The action includes its product, as in
// "Vpc:CreateVpc": another product may have one with the same name.
func once[Request, Answer any](s *State, action, token string, request Request, work func() (Answer, error)) (Answer, error) {
	var none Answer
	if token == "" {
		return work()
	}
	if len(token) > 64 || strings.ContainsFunc(token, func(r rune) bool { return r > unicode.MaxASCII }) {
		return none, badRequest("InvalidParameter.ClientToken", "The specified parameter \"ClientToken\" is not valid: %d bytes, expected at most 64 ASCII characters.", len(token))
	}
	parameters, err := hashOf(request)
	if err != nil {
		return none, fmt.Errorf("%s: hash the parameters: %w", action, err)
	}
	key := action + " " + token
	if old, ok := s.data.Tokens[key]; ok {
		if old.Parameters != parameters {
			return none, badRequest("IdempotentParameterMismatch", "The request uses the same client token as a previous, but non-identical request. Do not reuse a client token with different requests, unless the requests are identical.")
		}
		var answer Answer
		if err := json.Unmarshal(old.Answer, &answer); err != nil {
			return none, fmt.Errorf("%s: read the answer remembered for token %s: %w", action, token, err)
		}
		return answer, nil
	}
	answer, err := work()
	if err != nil {
		return none, err
	}
	saved, err := json.Marshal(answer)
	if err != nil {
		return none, fmt.Errorf("%s: remember the answer for token %s: %w", action, token, err)
	}
	s.touchToken(key)
	s.data.Tokens[key] = rememberedAnswer{Parameters: parameters, Answer: saved, At: s.now()}
	if s.forgetAt.IsZero() {
		s.forgetAt = s.now().Add(tokenLife)
	}
	return answer, nil
}

func hashOf(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// forgetTokens removes answers that are too old. This does not count as a change of the cloud.
func (s *State) forgetTokens(now time.Time) {
	if now.Before(s.forgetAt) {
		return
	}
	s.forgetAt = time.Time{}
	for key, answer := range s.data.Tokens {
		switch end := answer.At.Add(tokenLife); {
		case end.Before(now):
			s.touchToken(key)
			delete(s.data.Tokens, key)
		case s.forgetAt.IsZero() || end.Before(s.forgetAt):
			s.forgetAt = end
		}
	}
}
