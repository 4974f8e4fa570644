package supportbundle

import (
	"strings"
	"testing"
)

// Secrets are removed from text, and what is beside them stays.
func TestRedactText(t *testing.T) {
	for text, want := range map[string]string{
		// What helps stays.
		"level=INFO msg=\"an ENI was attached\" node=n1 eni=eni-1 address=192.168.32.4": "level=INFO msg=\"an ENI was attached\" node=n1 eni=eni-1 address=192.168.32.4",
		"Secret kube-system/terway-credentials was not found":                           "Secret kube-system/terway-credentials was not found",
		"InvalidAccessKeyId.NotFound: Specified access key is not found":                "InvalidAccessKeyId.NotFound: Specified access key is not found",
		"SignatureDoesNotMatch: Specified signature is wrong":                           "SignatureDoesNotMatch: Specified signature is wrong",
		"InvalidSecurityToken.Expired: The token":                                       "InvalidSecurityToken.Expired: The token",
		"https://ecs.cn-hangzhou.aliyuncs.com/?Action=DescribeVpcs":                     "https://ecs.cn-hangzhou.aliyuncs.com/?Action=DescribeVpcs",

		"accessKeySecret: abc, region: r":                                              "accessKeySecret: REMOVED, region: r",
		"access_key=abc next=1":                                                        "access_key=REMOVED next=1",
		`{"access_secret":"a\"bc","region":"r"}`:                                       `{"access_secret":REMOVED,"region":"r"}`,
		`body="{\"access_secret\":\"abc\",\"region\":\"r\"}"`:                          `body="{\"access_secret\":REMOVED,\"region\":\"r\"}"`,
		"DB_PASSWORD='a b c' x":                                                        "DB_PASSWORD=REMOVED x",
		"GET /?Signature=ab%2Fc&SecurityToken=xyz&Action=A":                            "GET /?Signature=REMOVED&SecurityToken=REMOVED&Action=A",
		"key LTAI5tAbCdEfGhIj was refused":                                             "key REMOVED was refused",
		"key STS.NUabcdefghij expired":                                                 "key REMOVED expired",
		"proxy http://user:pa%40ss@proxy:3128 used":                                    "proxy http://REMOVED@proxy:3128 used",
		"Authorization: Basic dXNlcjpwYXNz, next":                                      "Authorization: REMOVED, next",
		`"authorization":"Bearer abcdefgh12345"`:                                       `"authorization":"REMOVED"`,
		"sent bearer abcdefgh12345 there":                                              "sent bearer REMOVED there",
		"sa eyJhbGciOiJSUzI1.eyJpc3MiOiJr.c2lnbmF0dXJl there":                          "sa REMOVED there",
		"a -----BEGIN RSA PRIVATE KEY-----\nMII\nabc\n-----END RSA PRIVATE KEY----- z": "a REMOVED z",
		`"-----BEGIN PRIVATE KEY-----\nMII`:                                            `"REMOVED`,
	} {
		if got := redactText(text); got != want {
			t.Errorf("%s\nis %s\nwant %s", text, got, want)
		}
	}
}

// Of configurations the keys stay, and the values of those that name secrets do not, however deep.
func TestRedactData(t *testing.T) {
	old := `{"version": "1", "access_key": "hush1", "access_secret": "hush2", "vswitches": {"z": ["vsw-1"]}, "more": [{"client-secret": {"k": "hush3"}}]}`
	got := redactData("eni_conf", old)
	if strings.Contains(got, "hush") || !strings.Contains(got, "access_secret: REMOVED") || !strings.Contains(got, "- vsw-1") {
		t.Errorf("got %s", got)
	}
	for key, text := range map[string]string{"token": "hush", "notes": "the password: hush", "broken": "{access_secret: hush"} {
		if got := redactData(key, text); strings.Contains(got, "hush") || !strings.Contains(got, removed) {
			t.Errorf("%s: %s", key, got)
		}
	}
}

// Whatever stands before and after a secret, it is removed.
func TestSecretsInText(t *testing.T) {
	const hush = "hushHush99"
	for _, before := range []string{"", " ", "x=1 ", "read the secret: ", "no token: the password: ", `msg="call failed: token: `, "token=", "https://h/?A=1&", `{"a":"b",`, "{", "[", "Authorization: ", "secret={a b} ", "bearer "} {
		for _, form := range []string{
			"accessKeySecret: %", "access_key=%", `"access-key-secret":"%"`, `"accessKeySecret": "a \" %"`, `\"AccessKeySecret\":\"%\"`, "password='a %'", "DB_PASSWORD=%", "Signature=%",
			"SecurityToken=%", "Authorization: Bearer %", "Authorization: Basic %", "bearer %", "secret: value: %", "secret=map[a:b c:%]", `secret={"a":"b","c":"%"}`,
			"LTAI%", "STS.%", "http://user:%@host/", "eyJhbGciOiJIUzI1NiJ9.%.%", "-----BEGIN PRIVATE KEY-----\n%\n-----END PRIVATE KEY-----",
		} {
			for _, after := range []string{"", " more", ", more", "\nmore", `"}`, "&B=2"} {
				text := before + strings.ReplaceAll(form, "%", hush) + after
				if got, log := redactText(text), redactLog(text); strings.Contains(got+log, hush) {
					t.Errorf("%q is %q, in a log %q", text, got, log)
				}
			}
		}
	}
}
