package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/francescobianco/packbase/api/answer"
)

// maxBody bounds the JSON that a request may send, in bytes.
const maxBody = 64 << 10

// readJSON reads a request's body, which must be one JSON object and no more.
// Unknown fields are refused: a misspelled option must not be ignored.
func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	return readJSONUpTo(w, r, into, maxBody)
}

// readJSONUpTo is readJSON with another limit than maxBody.
func readJSONUpTo(w http.ResponseWriter, r *http.Request, into any, most int64) error {
	malformed := func(why string) error {
		return &answer.Error{Status: http.StatusBadRequest, Code: "malformed", Message: "the body is not the JSON object that is wanted here: " + why}
	}
	// All of it, before anything is done: what broke off must have no effect.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		if answer.FromError(err).Status == http.StatusRequestEntityTooLarge {
			return err
		}
		return malformed("it broke off")
	}
	if !utf8.Valid(body) {
		return malformed("it is not UTF-8")
	}
	if problem := keyProblem(body); problem != "" {
		return malformed(problem)
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return malformed(jsonProblem(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return malformed("it goes on after the object")
	}
	return nil
}

func jsonProblem(err error) string {
	var wrong *json.UnmarshalTypeError
	switch {
	case err == io.EOF:
		return "it is empty"
	case err == io.ErrUnexpectedEOF:
		return "it ends early"
	case errors.As(err, &wrong) && wrong.Field == "":
		return "its type is " + wrong.Value
	case errors.As(err, &wrong):
		return fmt.Sprintf("the type of %q is %s", wrong.Field, wrong.Value)
	}
	return strings.TrimPrefix(err.Error(), "json: ")
}

// keyProblem says which key the JSON object has twice, in any case of letters, or with null, or "". Parsers differ in which
// of the two they take, and nobody asks for all who has no value for the one.
func keyProblem(body []byte) string {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return ""
	}
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return ""
		}
		if seen[strings.ToLower(key)] {
			return fmt.Sprintf("it has %q twice", key)
		}
		seen[strings.ToLower(key)] = true
		var value json.RawMessage
		if dec.Decode(&value) != nil {
			return ""
		}
		if string(value) == "null" {
			return fmt.Sprintf("%q is null; leave it out", key)
		}
	}
	return ""
}
