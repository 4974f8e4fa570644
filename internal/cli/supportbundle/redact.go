package supportbundle

import (
	"regexp"
	"slices"
	"strings"
	"unicode"

	"sigs.k8s.io/yaml"
)

// removed stands for a secret.
const removed = "REMOVED"

// secretName matches the names of keys, flags and variables whose value is a secret.
var secretName = regexp.MustCompile(`(?i)secret|passw|passphrase|pwd|(?:^|[-_.])pass(?:$|[-_.])|token|credential|(?:access|api|private)[-_.]?key|signature|authorization`)

// userFlags are the flags of curl and others whose value is a user's name and password.
var userFlags = []string{"-u", "--user", "--proxy-user"}

// pem are keys in PEM, also where line breaks are escaped, and where the end is missing.
var pem = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`)

// secrets are the forms that secrets have in text, whatever it says about them, and what is put in
// place of each.
var secrets = []struct {
	form *regexp.Regexp
	to   string
}{
	{pem, removed},
	// JSON web tokens, as service accounts have.
	{regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), removed},
	// Alibaba Cloud's access keys: of users, and of roles.
	{regexp.MustCompile(`\b(?:LTAI|STS\.)[A-Za-z0-9]{8,}`), removed},
	// Users in URLs.
	{regexp.MustCompile(`(://)[^/\s@"']+@`), "${1}" + removed + "@"},
	// key=value, key: value, "key": "value" and \"key\":\"value\". The cloud's error codes, such as
	// InvalidAccessKeyId.NotFound and SignatureDoesNotMatch, are no keys.
	{regexp.MustCompile(`(?i)((?:(?:secret|passwd|password|passphrase|token|(?:api|private)[-_.]?key)(?:[-_][a-z0-9_-]*|key|value|id)?|access[-_.]?key(?:[-_.]?id)?|signature)\\?["']?\s*[=:]\s*)` +
		// "the secret: accessKey: abc" is a chain of errors.
		`(?:\\?["']?[^\s,;&"'{}\[\]\\]+\\?["']?[=:]\s*)*` +
		`(?:\\"(?:[^"\\]|\\[^"])*\\"|"(?:[^"\\]|\\.)*"|'[^']*'|(?:map)?[\[{][^\]}]*[\]}]?|(?:bearer|basic)\s+[^\s"',;\\]+|[^\s,;&"'}\]\\]+)`), "${1}" + removed},
	{regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}`), "${1}" + removed},
	{regexp.MustCompile(`(?i)((?:\bauthorization\\?["']?\s*[=:]\s*\\?["']?)+)(?:[a-z0-9-]+\s+)?[^\s"',;\\]+`), "${1}" + removed},
}

// hints are in lower case; text without any of them has none of the secrets. Most lines of a log have
// none, and the forms take long.
var hints = []string{"secret", "pass", "token", "key", "signature", "bearer", "basic", "authorization", "eyj", "ltai", "sts.", "://"}

// redactText removes secrets from text.
func redactText(s string) string {
	lower := strings.ToLower(s)
	if !slices.ContainsFunc(hints, func(hint string) bool { return strings.Contains(lower, hint) }) {
		return s
	}
	for _, r := range secrets {
		s = r.form.ReplaceAllString(s, r.to)
	}
	return s
}

// redactLog removes secrets from a log. Except of keys in PEM, a line has the whole of a secret.
func redactLog(text string) string {
	var out strings.Builder
	for line := range strings.Lines(pem.ReplaceAllString(text, removed)) {
		out.WriteString(redactText(line))
	}
	return out.String()
}

// redactData removes secrets from what a ConfigMap has under a key: YAML or JSON mostly.
func redactData(key, text string) string {
	if secretName.MatchString(key) {
		return removed
	}
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err == nil {
		switch v.(type) {
		case map[string]any, []any:
			if b, err := yaml.Marshal(redactValue(v, true)); err == nil {
				return string(b)
			}
		}
	}
	return redactText(text)
}

// harmless are the variables whose values are kept.
var harmless = []string{"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "GOMAXPROCS", "GOMEMLIMIT"}

// redactObject removes secrets from an object of the cluster, in place. Of containers' variables only
// the values of harmless ones stay.
func redactObject(o map[string]any) {
	if m, ok := o["metadata"].(map[string]any); ok {
		delete(m, "managedFields")
		if a, ok := m["annotations"].(map[string]any); ok {
			// It has the object as it was before any of this.
			delete(a, "kubectl.kubernetes.io/last-applied-configuration")
		}
	}
	if kind := o["kind"]; kind == "ConfigMap" {
		delete(o, "binaryData")
		if data, ok := o["data"].(map[string]any); ok {
			for key, text := range data {
				if s, ok := text.(string); ok {
					data[key] = redactData(key, s)
				}
			}
		}
		o["metadata"] = redactValue(o["metadata"], false)
		return
	}
	for key, v := range o {
		o[key] = redactValue(v, false)
	}
}

// redactValue removes secrets from a value and all that is in it. With keys, a key with the name of a
// secret has one; without, as in objects of Kubernetes, only text and annotations have, also those of a
// pod's template, and containers' variables, HTTP headers, commands and arguments.
func redactValue(v any, keys bool) any {
	switch v := v.(type) {
	case string:
		return redactText(v)
	case map[string]any:
		for key, in := range v {
			list, isList := in.([]any)
			switch {
			case keys && secretName.MatchString(key) && in != nil:
				v[key] = removed
			case key == "annotations":
				v[key] = redactValue(in, true)
			case isList && (key == "env" || key == "httpHeaders"):
				redactEnv(list)
			case isList && (key == "command" || key == "args"):
				redactWords(list)
			default:
				v[key] = redactValue(in, keys)
			}
		}
	case []any:
		for i, in := range v {
			v[i] = redactValue(in, keys)
		}
	}
	return v
}

// redactWords removes secrets from a command or its arguments: the values of flags with the name of a secret, and whole scripts, which
// are the words with white space. A shell has too many ways to write a value.
func redactWords(list []any) {
	flag := false // the word before is a flag whose value is a secret
	for i, in := range list {
		word, ok := in.(string)
		if !ok {
			list[i] = redactValue(in, true)
			continue
		}
		name, _, has := strings.Cut(word, "=")
		secret := strings.HasPrefix(word, "-") && (secretName.MatchString(strings.TrimLeft(name, "-")) || slices.Contains(userFlags, name))
		switch {
		case flag || strings.ContainsFunc(word, unicode.IsSpace):
			list[i] = removed
		case secret && has:
			list[i] = name + "=" + removed
		default:
			list[i] = redactText(word)
		}
		flag = secret && !has
	}
}

// redactEnv removes the values of a list of names and values.
func redactEnv(list []any) {
	for _, in := range list {
		v, ok := in.(map[string]any)
		if !ok {
			continue
		}
		name, _ := v["name"].(string)
		if _, has := v["value"]; has && !slices.Contains(harmless, name) {
			v["value"] = removed
		}
	}
}
