"""Names of classes that would break out of a page."""

NASTY = ("<script>document.title='taken'</script>", '"><img src=x onerror=alert(1)>', "a & b 'c'", "{{ 7 * 7 }}", "ünï")
