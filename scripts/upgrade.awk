# Prints the script that updates the extension from one version to the next:
#
#   awk -f scripts/upgrade.awk WRITTEN OLD NEW
#
# OLD and NEW are the install scripts of the two versions.  WRITTEN is the part
# that somebody has written: what changes or drops objects.  Its line
# "-- new statements" stands for the statements of NEW that OLD does not have; a
# script without that line is complete.
#
# - CREATE FUNCTION, PROCEDURE and VIEW become CREATE OR REPLACE; COMMENT, GRANT,
#   REVOKE and the like are repeated as they are.
# - Other objects are created if neither OLD nor WRITTEN, above that line, creates one
#   of the same name, or renames one to it.
# - What WRITTEN drops there is created again, with its comments and grants.
#
# It reads statements, not definitions: whether the result is a fresh install is
# tested by test/t/084_versions.pl.

# the names of the extension in the first line of a statement
function names(statement,   rest, found) {
  rest = statement
  sub(/\n.*/, "", rest)
  while (match(rest, /run_ops\.[a-z_0-9]+/)) {
    found = found " " substr(rest, RSTART, RLENGTH)
    rest = substr(rest, RSTART + RLENGTH)
  }
  return found
}

# what a statement creates or fills: its command, and the name behind it
function object(statement) {
  match(statement, /^[A-Z ]+ [^ (;\n]+/)
  return substr(statement, 1, RLENGTH)
}

function finished(statement,   i, n, name, again) {
  if (OLD) {
    old[statement] = old_object[object(statement)] = 1
    return
  }
  if (after > lines + 1)
    return
  n = split(names(statement), name, " ")
  for (i = 1; i <= n; i++)
    again = again || name[i] in dropped
  if (statement in old && !again)
    return
  if (statement ~ /^CREATE (FUNCTION|PROCEDURE|VIEW) /)
    sub(/^CREATE/, "CREATE OR REPLACE", statement)
  else if (statement ~ /^(CREATE|INSERT|DO) / && object(statement) in old_object && !again)
    return
  print statement
}

# Splits a script into statements; a semicolon at the end of a line ends one, if
# it is not quoted.
function read_line(line,   rest) {
  if (text == "" && (line == "" || line ~ /^(--|\\echo )/))
    return
  text = text == "" ? line : text "\n" line
  for (rest = line; rest != ""; ) {
    if (quote != "") {
      at = index(rest, quote)
      if (!at)
        return
      rest = substr(rest, at + length(quote))
      quote = ""
    } else if (match(rest, /--|'|"|\$[a-z_]*\$|;[ ]*$/)) {
      quote = substr(rest, RSTART, RLENGTH)
      rest = substr(rest, RSTART + RLENGTH)
      if (quote == "--")
        quote = rest = ""
      else if (quote ~ /^;/) {
        finished(text)
        quote = rest = text = ""
      }
    } else
      return
  }
}

FNR == 1 { file++; OLD = file == 2 }
file == 1 { written[++lines] = $0; next }
file == 2 && FNR == 1 {
  for (i = 1; i <= lines && written[i] != "-- new statements"; i++) {
    if (written[i] ~ /^CREATE /)
      old_object[object(written[i])] = 1
    else if (written[i] ~ /^ALTER [A-Z ]+ run_ops\.[a-z_0-9]+ RENAME TO [a-z_0-9]+;$/) {
      split(written[i], word, / run_ops\.| RENAME TO |;/)
      sub(/^ALTER/, "CREATE", word[1])
      old_object[word[1] " run_ops." word[3]] = 1
    } else if (match(written[i], /^DROP [A-Z ]+ run_ops\.[a-z_0-9]+/)) {
      name = substr(written[i], 1, RLENGTH)
      sub(/.* /, "", name)
      dropped[name] = 1
    }
  }
}
file == 3 && FNR == 1 {
  for (i = 1; i <= lines && written[i] != "-- new statements"; i++)
    print written[i]
  after = i + 1
}
{ read_line($0) }
END {
  if (text != "") {
    print "a statement of the install script does not end" > "/dev/stderr"
    exit 1
  }
  for (i = after; i <= lines; i++)
    print written[i]
}
