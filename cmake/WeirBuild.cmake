# Helpers that keep each folder's CMakeLists.txt to a few lines.

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(ZLIB REQUIRED)

# Language level, warnings, sanitizers: the same for everything that is compiled here.
function(weir_target_defaults target)
    set_target_properties(${target} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
    target_compile_definitions(${target} PRIVATE _GNU_SOURCE)
    # The log tells files by their path within the project, not by where it was built.
    target_compile_options(${target} PRIVATE -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes
        -Wno-missing-field-initializers $<$<C_COMPILER_ID:GNU>:-Wno-format-truncation> $<$<BOOL:${WEIR_WERROR}>:-Werror>)
    target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/include)
    target_link_libraries(${target} PRIVATE Threads::Threads)
    if(WEIR_SANITIZE)
        target_compile_options(${target} PRIVATE -fsanitize=${WEIR_SANITIZE} -fno-omit-frame-pointer
            $<$<C_COMPILER_ID:GNU>:-Wno-tsan>)
        target_link_options(${target} PRIVATE -fsanitize=${WEIR_SANITIZE})
    endif()
endfunction()

# Adds sources of the calling folder to the library. They see the public headers and the tree's root.
function(weir_sources)
    list(TRANSFORM ARGN PREPEND ${CMAKE_CURRENT_SOURCE_DIR}/)
    target_sources(weir_objects PRIVATE ${ARGN})
endfunction()

# A package the library needs: its headers for our sources, its libraries for whoever links us. PRIVATE_BY_NAME: these
# words link it for those who link libweir statically, instead of its .pc file.
function(weir_needs_package prefix)
    cmake_parse_arguments(PARSE_ARGV 1 arg "" "" PRIVATE_BY_NAME)
    pkg_check_modules(${prefix} REQUIRED IMPORTED_TARGET GLOBAL ${arg_UNPARSED_ARGUMENTS})
    target_link_libraries(weir_objects PRIVATE PkgConfig::${prefix})
    set_property(GLOBAL APPEND PROPERTY WEIR_LINK PkgConfig::${prefix})
    if(arg_PRIVATE_BY_NAME)
        set_property(GLOBAL APPEND PROPERTY WEIR_PC_LIBS ${arg_PRIVATE_BY_NAME})
    else()
        set_property(GLOBAL APPEND PROPERTY WEIR_PC_PRIVATE ${arg_UNPARSED_ARGUMENTS})
    endif()
endfunction()

# libweir, shared and static, with what is installed beside it.
macro(weir_library)
    target_include_directories(weir_objects PRIVATE ${PROJECT_SOURCE_DIR})
    target_link_libraries(weir_objects PRIVATE ZLIB::ZLIB)
    get_property(weir_link GLOBAL PROPERTY WEIR_LINK)
    get_property(weir_pc_private GLOBAL PROPERTY WEIR_PC_PRIVATE)
    string(REPLACE ";" " " WEIR_PC_PRIVATE "${weir_pc_private}")
    get_property(weir_pc_libs GLOBAL PROPERTY WEIR_PC_LIBS)
    string(REPLACE ";" " " WEIR_PC_LIBS "${weir_pc_libs}")

    add_library(weir SHARED $<TARGET_OBJECTS:weir_objects>)
    add_library(weir_static STATIC $<TARGET_OBJECTS:weir_objects>)
    set_target_properties(weir PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
        LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/weir.map)
    set_target_properties(weir_static PROPERTIES OUTPUT_NAME weir)
    target_link_options(weir PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/weir.map)
    foreach(lib weir weir_static)
        target_include_directories(${lib} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
            $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
        target_link_libraries(${lib} PRIVATE Threads::Threads ZLIB::ZLIB ${weir_link})
        if(WEIR_SANITIZE)
            target_link_options(${lib} PRIVATE -fsanitize=${WEIR_SANITIZE})
        endif()
    endforeach()
    # Threads that used pools call into the library when they end: it must still be there after a dlclose().
    target_link_options(weir PRIVATE -Wl,-z,nodelete)
    # The sanitizers' runtime is in the program, not in the library.
    if(WEIR_SANITIZE)
        target_link_options(weir PRIVATE -Wl,--undefined-version)
    else()
        target_link_options(weir PRIVATE -Wl,--no-undefined)
    endif()

    # Relative to the file itself, so that an installed tree can be moved, and installed elsewhere than configured.
    file(RELATIVE_PATH WEIR_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
    configure_file(${PROJECT_SOURCE_DIR}/cmake/weir.pc.in weir.pc @ONLY)
    include(CMakePackageConfigHelpers)
    configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/weirConfig.cmake.in weirConfig.cmake
        INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weir)
    write_basic_package_version_file(weirConfigVersion.cmake COMPATIBILITY SameMajorVersion)
    install(TARGETS weir EXPORT weirTargets)
    install(TARGETS weir_static)
    install(EXPORT weirTargets NAMESPACE weir:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weir)
    install(DIRECTORY include/weir TYPE INCLUDE)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/weir.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
    install(FILES ${CMAKE_CURRENT_BINARY_DIR}/weirConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/weirConfigVersion.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/weir)
endmacro()

# A program that uses the public headers alone.
function(weir_program name)
    add_executable(${name} ${ARGN})
    weir_target_defaults(${name})
    target_link_libraries(${name} PRIVATE weir)
    set_target_properties(${name} PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}")
endfunction()

# A test program that sees the library's inside (static library, tree's root on the include path) and cmocka.
function(weir_test_program name)
    add_executable(${name} ${ARGN})
    weir_target_defaults(${name})
    target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
    get_property(weir_link GLOBAL PROPERTY WEIR_LINK)
    target_link_libraries(${name} PRIVATE weir_static PkgConfig::CMOCKA ZLIB::ZLIB ${weir_link})
endfunction()

# A test program of ranks in a simulated world (transport/sim).
function(weir_sim_program name)
    weir_test_program(${name} ${ARGN})
    target_link_libraries(${name} PRIVATE weir_sim)
endfunction()

# A unit test: one program, one ctest entry of the same name, no processes besides itself.
function(weir_unit_test name)
    weir_test_program(${name} ${ARGN})
    add_test(NAME ${name} COMMAND ${name})
    set_tests_properties(${name} PROPERTIES TIMEOUT 180 LABELS unit SKIP_RETURN_CODE 77)
endfunction()
